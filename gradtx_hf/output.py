"""Write folders and files whole or not at all, and never into what is already there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradtx_hf.errors import ConfigurationError, OutputExistsError


def require_new_folder(folder: str | Path) -> Path:
    """Return the folder as a path if it can be made anew.

    Raises:
        OutputExistsError: If it is a file, or a folder with something in it.
        ConfigurationError: If no folder can be made there.
    """
    if not str(folder) or Path(folder).name in ("", ".."):
        raise ConfigurationError(f"got output folder '{folder}', expected the name of a new one.")
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise OutputExistsError(
            f"output folder '{folder}' exists and is not empty. Name a new one, or remove it first."
        )
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        reason = "is not a folder" if not parent.is_dir() else "is not yours to write into"
        raise ConfigurationError(f"output folder '{folder}' cannot be made: '{parent}' {reason}. Name another one.")
    return folder


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Fill a new folder: yields a temporary sibling, which takes the folder's name if the body succeeds.

    Raises:
        OutputExistsError: If the folder exists and is not empty.
    """
    folder = require_new_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _flush_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    write_bytes(Path(path), text.encode())


def write_json(path: str | Path, values: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write JSON, indented, without NaN or infinity, under a temporary name, then rename it.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    write_text(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
