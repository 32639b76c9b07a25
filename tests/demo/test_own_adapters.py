"""A visitor's own adapters: checked, measured, translated as the package does, and refused in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from gradtx_hf.demo.own_adapters import UPLOADED, Submission, check, read_names, translate
from gradtx_hf.demo.story import embedded_translator
from gradtx_hf.errors import AdapterError, ConfigurationError, GradTxError
from gradtx_hf.lora import save_adapter
from gradtx_hf.playground import TRANSLATOR_NAME, translator_path
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import AggregationSettings
from tests.demo.archives import adapter_zip, write_zip
from tests.demo.conftest import Told
from tests.hubs import ALICE, add_repository, folder_files


MEAN = AggregationSettings()


@pytest.fixture
def folder(told: Told, tmp_path: Path) -> Path:
    """Return the story's adapter as a folder."""
    save_adapter(tmp_path / "mine", config=told.run.adapter.config, tensors=told.run.adapter.tensors)
    return tmp_path / "mine"


def submission(
    *, repositories: tuple[str, ...] = (), archives: tuple[Path, ...] = (), files: tuple[Path, ...] = (),
    translator: str = TRANSLATOR_NAME, token: str | None = None,
) -> Submission:  # fmt: skip
    return Submission(repositories, archives, files, translator, token)


def test_an_adapter_that_fits_is_measured(told: Told, folder: Path, tmp_path: Path) -> None:
    found = check(submission(archives=(adapter_zip(tmp_path / "mine.zip", folder),)))

    (candidate,) = found.candidates
    assert (candidate.name, candidate.refusal) == ("mine", None)
    assert candidate.distance == pytest.approx(told.translated.report["input_distance"])
    assert (candidate.warning is None) == (not told.translated.report["warnings"])


def test_the_translation_is_that_of_the_package(told: Told, folder: Path, tmp_path: Path) -> None:
    for handed_in in (
        submission(archives=(adapter_zip(tmp_path / "mine.zip", folder),)),
        submission(files=tuple(folder.iterdir())),
    ):
        translated = translate(handed_in, settings=MEAN, weights=None)

        assert all(torch.equal(translated.tensors[name], tensor) for name, tensor in told.translated.tensors.items())


def test_several_are_aggregated_by_their_weights(told: Told, folder: Path, tmp_path: Path) -> None:
    start = write_zip(tmp_path / "start.zip", folder_files(_start(told, tmp_path)))
    handed_in = submission(archives=(adapter_zip(tmp_path / "mine.zip", folder), start))

    only_mine = translate(handed_in, settings=MEAN, weights=[1.0, 0.0])
    both = translate(handed_in, settings=MEAN, weights=[0.5, 0.5])

    name = next(iter(told.translated.tensors))
    torch.testing.assert_close(only_mine.tensors[name], told.translated.tensors[name], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(both.tensors[name], told.translated.tensors[name], rtol=1e-3, atol=1e-4)
    assert [adapter["name"] for adapter in both.report["adapters"]] == ["mine", "start"]


def test_adapter_and_translator_come_from_the_hub(hub: HubServer, told: Told, folder: Path) -> None:
    root = translator_path()
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    add_repository(hub, "org/translator", files, is_private=True)
    commit = add_repository(hub, "org/client", folder_files(folder), is_private=True)

    handed_in = submission(repositories=("org/client",), translator="org/translator", token=ALICE)
    found = check(handed_in)
    translated = translate(handed_in, settings=MEAN, weights=None)

    assert found.translator.name == "org/translator"
    assert found.candidates[0].refusal is None
    assert translated.report["adapters"][0]["commit"] == commit
    assert all(torch.equal(translated.tensors[name], tensor) for name, tensor in told.translated.tensors.items())
    with pytest.raises(GradTxError, match="org/translator"):
        check(submission(repositories=("org/client",), translator="org/translator"))


def test_what_does_not_fit_is_refused_beside_what_does(folder: Path, tmp_path: Path) -> None:
    other = adapter_zip(tmp_path / "other.zip", translator_path() / "target_init")
    handed_in = submission(
        repositories=("/etc",), archives=(adapter_zip(tmp_path / "mine.zip", folder), other), files=(folder,)
    )

    repository, mine, large, files = check(handed_in).candidates

    assert mine.refusal is None
    assert "expected a repository on the Hub" in (repository.refusal or "")
    assert "'other'" in (large.refusal or "")
    assert "does not fit" in (large.refusal or "")
    assert files.name == UPLOADED
    assert "adapter_config.json" in (files.refusal or "")
    assert all("\n" not in (candidate.refusal or "") for candidate in (repository, large, files))
    with pytest.raises(AdapterError, match="expected a repository on the Hub"):
        translate(handed_in, settings=MEAN, weights=None)


@pytest.mark.parametrize("number", [0, 17])
def test_no_adapter_or_too_many_are_refused(number: int) -> None:
    with pytest.raises(ConfigurationError, match=f"got {number} adapters, expected 1 to 16"):
        check(submission(repositories=tuple(f"owner/name{i}" for i in range(number))))


def test_nothing_stays_on_the_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    translate(submission(files=tuple(folder.iterdir())), settings=MEAN, weights=None)
    with pytest.raises(AdapterError):
        translate(submission(archives=(write_zip(tmp_path / "bad.zip", {"x": b""}),)), settings=MEAN, weights=None)

    assert list(scratch.iterdir()) == []


def test_a_submission_never_shows_its_token() -> None:
    assert ALICE not in repr(submission(token=ALICE))


def test_names_are_read_once_each() -> None:
    assert read_names(" a/b, c/d\nc/d  e/f@main") == ("a/b", "c/d", "e/f@main")


def _start(told: Told, tmp_path: Path) -> Path:
    """Write an adapter that has not moved from its start."""
    init = embedded_translator().source_init
    save_adapter(tmp_path / "start", config=told.run.adapter.config, tensors=init.tensors)
    return tmp_path / "start"
