"""Archives that visitors might upload, honest and not."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_zip(path: Path, files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write an archive of these files."""
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def adapter_zip(path: Path, folder: Path, *, prefix: str = "") -> Path:
    """Write an archive of an adapter's folder."""
    return write_zip(path, {f"{prefix}{file.name}": file.read_bytes() for file in folder.iterdir() if file.is_file()})


def link_zip(path: Path, *, name: str, to: str) -> Path:
    """Write an archive that holds a symbolic link."""
    with zipfile.ZipFile(path, "w") as opened:
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(entry, to)
    return path
