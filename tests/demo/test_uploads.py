"""Uploaded adapters: what is honest is read as it is, and nothing else reaches the disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradtx_hf.demo import uploads
from gradtx_hf.demo.uploads import CONFIG_FILE, collect_adapter, unpack_adapter, zip_adapter
from gradtx_hf.errors import AdapterError
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground import translator_path
from tests.demo.archives import adapter_zip, link_zip, write_zip


ADAPTER = translator_path() / "source_init"
CONFIG = {CONFIG_FILE: b"{}"}


def refusal(archive: Path, folder: Path) -> str:
    """Return the one line that an archive is refused with; nothing was written, here or above."""
    home = folder / "a" / "b"
    home.mkdir(parents=True)
    with pytest.raises(AdapterError) as raised:
        unpack_adapter(archive, home)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert all(path.parent == home or path == archive for path in written), written
    text = str(raised.value)
    assert "\n" not in text
    assert str(folder) not in text
    return text


@pytest.mark.parametrize("prefix", ["", "my adapter/", "out/checkpoint-60/"])
def test_an_adapter_comes_out_of_its_archive_as_it_was(prefix: str, tmp_path: Path) -> None:
    archive = adapter_zip(tmp_path / "mine.zip", ADAPTER, prefix=prefix)
    (tmp_path / "home").mkdir()

    unpack_adapter(archive, tmp_path / "home")

    there, expected = load_adapter(tmp_path / "home"), load_adapter(ADAPTER)
    assert all(torch.equal(there.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_only_files_of_an_adapter_are_taken(tmp_path: Path) -> None:
    files = {
        "x/adapter_config.json": b"{}",
        "x/run.py": b"import os",
        "x/adapter_model.bin": b"pickled",
        "y.json": b"{}",
    }
    (tmp_path / "home").mkdir()

    unpack_adapter(write_zip(tmp_path / "mine.zip", files), tmp_path / "home")

    assert [path.name for path in (tmp_path / "home").iterdir()] == ["adapter_config.json"]


def test_what_is_packed_here_is_unpacked_here(tmp_path: Path) -> None:
    adapter = load_adapter(ADAPTER)
    (tmp_path / "home").mkdir()

    unpack_adapter(zip_adapter(tmp_path / "client.zip", adapter.config, adapter.tensors), tmp_path / "home")

    there = load_adapter(tmp_path / "home")
    assert all(torch.equal(there.tensors[name], tensor) for name, tensor in adapter.tensors.items())


@pytest.mark.parametrize(
    "name", ["../adapter_config.json", "/etc/adapter_config.json", "a/../../b.json", "..\\b.json", "C:\\b.json"]
)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", CONFIG | {name: b"{}"})

    assert "names a file outside itself" in refusal(archive, tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    archive = link_zip(tmp_path / "bad.zip", name=CONFIG_FILE, to="/etc/passwd")

    assert "holds a link or device" in refusal(archive, tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_ADAPTER_BYTES", 1 << 20)
    archive = write_zip(tmp_path / "bad.zip", CONFIG | {"adapter_model.safetensors": bytes(2 << 20)})
    assert archive.stat().st_size < 1 << 14

    assert "would unpack to 2 MB, expected at most 1" in refusal(archive, tmp_path)


def test_a_bomb_that_lies_of_its_size_is_cut_off(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", CONFIG | {"adapter_model.safetensors": bytes(4 << 20)})
    size = (4 << 20).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (100).to_bytes(4, "little")))

    assert "is damaged" in refusal(archive, tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file()) < 1000


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", CONFIG | {f"{i}.txt": b"" for i in range(uploads.MAX_ENTRIES)})

    assert f"holds {uploads.MAX_ENTRIES + 1} files" in refusal(archive, tmp_path)


def test_a_long_list_of_files_is_not_read_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path / "bad.zip", CONFIG)
    content = bytearray(archive.read_bytes())
    content[-10:-6] = (1 << 28).to_bytes(4, "little")
    archive.write_bytes(content)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the list was read"))

    assert "lists far more files" in refusal(archive, tmp_path)


def test_other_packings_are_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", CONFIG, method=zipfile.ZIP_LZMA)

    assert "packed in an unusual way" in refusal(archive, tmp_path)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", CONFIG)
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)

    assert "is encrypted" in refusal(archive, tmp_path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_bytes(b"no archive"), "'bad.zip' is no zip archive"),
        (lambda path: path.write_bytes(b""), "'bad.zip' is no zip archive"),
        (lambda path: write_zip(path, {"notes.txt": b"x"}), "holds no adapter_config.json"),
        (
            lambda path: write_zip(path, {"a/adapter_config.json": b"", "b/adapter_config.json": b""}),
            "holds 2 adapters",
        ),
        (lambda path: path.write_bytes(adapter_zip(path, ADAPTER).read_bytes()[200:]), "is damaged"),
    ],
)
def test_what_is_no_adapter_is_refused_in_one_line(
    make: Callable[[Path], object], expected: str, tmp_path: Path
) -> None:
    make(tmp_path / "bad.zip")

    assert expected in refusal(tmp_path / "bad.zip", tmp_path)


def test_a_folder_uploaded_file_by_file_is_an_adapter(tmp_path: Path) -> None:
    collect_adapter(list(ADAPTER.iterdir()), tmp_path)

    assert load_adapter(tmp_path).tensors.keys() == load_adapter(ADAPTER).tensors.keys()


def test_files_of_two_adapters_are_refused(tmp_path: Path) -> None:
    other = translator_path() / "target_init"

    with pytest.raises(AdapterError, match=r"adapter_\w+\.\w+ twice"):
        collect_adapter([*ADAPTER.iterdir(), *other.iterdir()], tmp_path)


def test_files_without_a_configuration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"got 1 files without adapter_config\.json"):
        collect_adapter([ADAPTER / "adapter_model.safetensors"], tmp_path)
