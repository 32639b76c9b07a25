"""Large files that came over the network into the Hub's cache, checked by the SHA-256 that they have there as a name.

The Hub's client compares sizes alone, so that one wrong byte in a weight would stay in the cache unseen. Small files
have git's id as a name, which mirrors of the Hub write in other ways: those are not checked here.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from gradtx_hf.updates.shard import sha256_of_file


SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


def cached_blobs(repo_id: str, *, repo_type: str, cache_dir: str | Path | None) -> frozenset[Path]:
    """Return the contents that the cache holds of a repository."""
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    folders = (cache / repo_folder_name(repo_id=repo_id, repo_type=repo_type) / "blobs", cache / "blobs")
    return frozenset(path.resolve() for folder in folders if folder.is_dir() for path in folder.rglob("*"))


def remove_damaged(folder: Path, *, known: frozenset[Path]) -> list[str]:
    """Remove the large files of a fetched snapshot that are not as their names say, and return their paths in it.

    Args:
        folder: The snapshot.
        known: What ``cached_blobs`` held before it was fetched: this is not read again.
    """
    damaged = []
    for path in sorted(folder.rglob("*")):
        blob = path.resolve()
        is_new = blob.is_file() and blob not in known and SHA256_PATTERN.fullmatch(blob.name) is not None
        if is_new and sha256_of_file(blob) != blob.name:
            blob.unlink()
            path.unlink()
            damaged.append(path.relative_to(folder).as_posix())
    return damaged
