from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gradtx_hf.errors import ConfigurationError, OutputExistsError
from gradtx_hf.output import new_folder, require_new_folder, write_json, write_text


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "b" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b" / "out").exists()

    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["out"]
    assert (tmp_path / "a" / "b" / "out" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")

    assert (tmp_path / "out" / "file").is_file()


def test_folders_can_be_nested(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as outer:
        with new_folder(outer) as inner:
            (inner / "first").write_text("x")
        (outer / "second").write_text("y")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "second"]


def make_file(path: Path) -> None:
    path.write_text("keep")


def make_full(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("keep")


def make_hidden(path: Path) -> None:
    path.mkdir()
    (path / ".git").mkdir()


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("make", [make_file, make_full, make_hidden, make_link])
def test_what_is_there_is_left_alone(make: object, tmp_path: Path) -> None:
    make(tmp_path / "out")  # type: ignore[operator]

    with (
        pytest.raises(OutputExistsError, match="exists and is not empty"),
        new_folder(tmp_path / "out"),
    ):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/.."])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError, match="expected the name of a new one"):
        require_new_folder(name)


def test_a_folder_below_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(ConfigurationError, match=r"cannot be made: '.*/file' is not a folder"):
        require_new_folder(tmp_path / "file" / "inner" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_others_own_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)

    with pytest.raises(ConfigurationError, match="is not yours to write into"):
        require_new_folder(tmp_path / "theirs" / "out")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")

    write_json(tmp_path / "file", {"a": [1, "ü"]})

    assert json.loads((tmp_path / "file").read_text(encoding="utf-8")) == {"a": [1, "ü"]}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_that_others_cannot_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"a": float("nan")})

    assert list(tmp_path.iterdir()) == []
