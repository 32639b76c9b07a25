"""The list of files in a store's repository, with their SHA-256: what was fetched is checked against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from gradtx_hf.errors import StoreError
from gradtx_hf.updates.plan import read_json
from gradtx_hf.updates.shard import find_damage, sha256_of_file


FILES_FILE = "files.json"
FORMAT = "gradtx store repository 1"


def encode_file_list(files: Mapping[str, Path]) -> bytes:
    """Return the content of the list.

    Args:
        files: Path in the repository to the file here.
    """
    digests = {path: sha256_of_file(file) for path, file in sorted(files.items())}
    return json.dumps({"format": FORMAT, "files": digests}, indent=1).encode()


def find_damaged_downloads(folder: Path) -> dict[Path, str]:
    """Return the fetched files that are not as the list says, each with what it is: ``damaged`` or ``missing``.

    Args:
        folder: The fetched repository.

    Raises:
        StoreError: If the list itself is missing, of another version, or leads out of the folder.
    """
    path = folder / FILES_FILE
    if not path.is_file():
        raise StoreError(f"the repository holds no {FILES_FILE}: it is no update store. Give one that gradtx pushed.")
    try:
        values = read_json(path)
    except StoreError:
        return {path: "damaged"}
    digests = values.get("files") if isinstance(values, dict) and values.get("format") == FORMAT else None
    if not isinstance(digests, dict):
        raise StoreError(f"{FILES_FILE} of the repository is not of this version. Update gradtx-hf.")
    for name in digests:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise StoreError(f"{FILES_FILE} of the repository names '{name}', outside of it. Do not use it.")
    return find_damage({folder / name: str(digest) for name, digest in digests.items()})
