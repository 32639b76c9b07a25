"""Adapters that visitors upload, and the archive that they get back.

Of what is uploaded only the files that an adapter has are taken, under their own names, into a folder of ours: a name
in an archive never becomes a path. An archive that tries is refused all the same, as is one that would unpack to much
more than it should.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from peft import LoraConfig
from torch import Tensor

from gradtx_hf.demo.limits import MAX_ADAPTER_BYTES, MAX_UPLOAD_BYTES
from gradtx_hf.errors import AdapterError, GradTxError
from gradtx_hf.lora import save_adapter
from gradtx_hf.translation import TranslatedAdapter
from gradtx_hf.translation.adapter_publishing import ADAPTER_FILES


CONFIG_FILE = "adapter_config.json"
MAX_ENTRIES = 100
END_RECORD, END_RECORD_BYTES, MAX_COMMENT_BYTES = b"PK\x05\x06", 22, 65_535
MAX_DIRECTORY_BYTES = 1 << 20
"""Of an archive's list of files, which is read before anything else: thousands of entries."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHUNK_BYTES = 1 << 20


def unpack_adapter(archive: Path, folder: Path) -> None:
    """Unpack the adapter in a zip archive, at its top or in a folder inside, into a folder of ours.

    Raises:
        AdapterError: If it is no such archive, holds no adapter or several, or is not as harmless as it should be.
    """
    name = archive.name
    _require_small_directory(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _require_harmless(entries, name)
            home = _home_of_adapter(entries, name)
            budget = MAX_ADAPTER_BYTES
            for entry in entries:
                path = PurePosixPath(entry.filename)
                if path.parent == home and path.name in ADAPTER_FILES:
                    budget -= _copy(opened, entry, folder / path.name, budget=budget)
    except GradTxError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise AdapterError(f"archive '{name}' is damaged ({type(error).__name__}). Zip the folder again.") from error


def collect_adapter(files: Sequence[Path], folder: Path) -> None:
    """Copy the files of one adapter, uploaded one by one or as a folder, into a folder of ours.

    Raises:
        AdapterError: If they are not those of an adapter, or a name comes twice.
    """
    chosen = [path for path in files if path.name in ADAPTER_FILES]
    names = [path.name for path in chosen]
    if CONFIG_FILE not in names:
        raise AdapterError(
            f"got {len(files)} files without {CONFIG_FILE}, expected the folder that PEFT's save_pretrained wrote, "
            "with adapter_config.json and adapter_model.safetensors."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AdapterError(f"got {twice[0]} twice. Upload one adapter's folder at a time, or several as .zip files.")
    if sum(path.stat().st_size for path in chosen) > MAX_ADAPTER_BYTES:
        raise AdapterError(f"the adapter has more than {MAX_ADAPTER_BYTES >> 20} MB, which is more than is taken here.")
    for path in chosen:
        shutil.copyfile(path, folder / path.name)


def zip_adapter(archive: Path, config: LoraConfig, tensors: dict[str, Tensor]) -> Path:
    """Write an adapter as a zip archive of its folder."""
    with tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        folder = Path(scratch) / archive.stem
        save_adapter(folder, config=config, tensors=tensors)
        return _zip_folder(folder, archive)


def zip_translated(archive: Path, translated: TranslatedAdapter) -> Path:
    """Write a translated adapter, with its report, as a zip archive of its folder."""
    with tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        folder = Path(scratch) / archive.stem
        translated.save_pretrained(folder)
        return _zip_folder(folder, archive)


def _zip_folder(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, f"{folder.name}/{path.name}")
    return archive


def _require_small_directory(archive: Path) -> None:
    """Check, before zipfile reads the list of files into memory, that it is short."""
    if archive.stat().st_size > MAX_UPLOAD_BYTES:
        raise AdapterError(f"archive '{archive.name}' has more than {MAX_UPLOAD_BYTES >> 20} MB.")
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - END_RECORD_BYTES - MAX_COMMENT_BYTES))
        tail = stream.read()
    start = tail.rfind(END_RECORD)
    if start < 0 or len(tail) < start + END_RECORD_BYTES:
        raise AdapterError(
            f"'{archive.name}' is no zip archive. Zip the folder with adapter_config.json and "
            "adapter_model.safetensors, and upload that."
        )
    size = int.from_bytes(tail[start + 12 : start + 16], "little")
    if size > MAX_DIRECTORY_BYTES:  # also that of a zip64 archive, which writes the largest number here
        raise AdapterError(f"archive '{archive.name}' lists far more files than an adapter has. Zip its folder alone.")


def _require_harmless(entries: Sequence[zipfile.ZipInfo], name: str) -> None:
    if len(entries) > MAX_ENTRIES:
        raise AdapterError(
            f"archive '{name}' holds {len(entries)} files, expected at most {MAX_ENTRIES}. Zip the folder alone."
        )
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in entry.filename:
            raise AdapterError(f"archive '{name}' names a file outside itself ({entry.filename!r}). It is not opened.")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise AdapterError(
                f"archive '{name}' holds a link or device ({entry.filename!r}). Zip the files themselves."
            )
        if entry.flag_bits & 1:
            raise AdapterError(f"archive '{name}' is encrypted. Zip the folder without a password.")
        if entry.compress_type not in METHODS and not entry.is_dir():
            raise AdapterError(
                f"archive '{name}' is packed in an unusual way. Zip the folder in the usual one (deflate)."
            )
    total = sum(entry.file_size for entry in entries)
    if total > MAX_ADAPTER_BYTES:
        raise AdapterError(
            f"archive '{name}' would unpack to {total >> 20:,} MB, expected at most {MAX_ADAPTER_BYTES >> 20}. "
            "Zip the adapter's folder alone, without checkpoints."
        )


def _home_of_adapter(entries: Sequence[zipfile.ZipInfo], name: str) -> PurePosixPath:
    paths = [PurePosixPath(entry.filename) for entry in entries if not entry.is_dir()]
    homes = [path.parent for path in paths if path.name == CONFIG_FILE and "__MACOSX" not in path.parts]
    if not homes:
        raise AdapterError(
            f"archive '{name}' holds no {CONFIG_FILE}. Zip the folder that PEFT's save_pretrained wrote."
        )
    if len(homes) > 1:
        raise AdapterError(
            f"archive '{name}' holds {len(homes)} adapters. Zip each alone, and upload several archives."
        )
    return homes[0]


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, *, budget: int) -> int:
    """Copy one file out of an archive, and no more of it than is left; return its bytes."""
    copied = 0
    with opened.open(entry) as packed, path.open("wb") as stream:
        while chunk := packed.read(CHUNK_BYTES):
            copied += len(chunk)
            if copied > budget:
                raise AdapterError(f"an archive unpacks to more than {MAX_ADAPTER_BYTES >> 20} MB. It is not opened.")
            stream.write(chunk)
    return copied
