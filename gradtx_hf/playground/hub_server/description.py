"""Repositories, files and commits as the Hub's API writes them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from gradtx_hf.playground.hub_server.blobs import BlobStore, git_blob_id, lfs_pointer
from gradtx_hf.playground.hub_server.card import make_tags, read_metadata
from gradtx_hf.playground.hub_server.refusal import Refusal, entry_not_found
from gradtx_hf.playground.hub_server.repository import Commit, FileEntry, Repository, is_inside


def describe_repository(
    repository: Repository, commit: Commit, *, blobs: BlobStore, with_blobs: bool = False
) -> dict[str, Any]:
    """Return all that the API says about a repository at a commit.

    Args:
        repository: The repository.
        commit: The commit whose card and files are described.
        blobs: Contents.
        with_blobs: Whether to give the size and the ids of each file.
    """
    card = commit.files.get("README.md")
    metadata = _metadata(blobs.read(card.sha256)) if card is not None else {}
    values = {
        "_id": git_blob_id(repository.url_path.encode())[:24],
        "id": repository.repo_id,
        "author": repository.owner,
        "sha": commit.sha,
        "createdAt": repository.created_at,
        "lastModified": commit.date,
        "private": repository.is_private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": make_tags(metadata, kind=repository.kind, has_adapter="adapter_config.json" in commit.files),
        "cardData": metadata,
        "siblings": [_sibling(path, entry, with_blobs=with_blobs) for path, entry in commit.files.items()],
    }
    if repository.kind == "models":
        values["modelId"] = repository.repo_id
        values |= {key: metadata[key] for key in ("pipeline_tag", "library_name", "model-index") if key in metadata}
    if repository.kind == "spaces":
        values["sdk"] = repository.sdk or metadata.get("sdk")
    return values


def describe_tree(
    repository: Repository, commit: Commit, *, folder: str, is_recursive: bool, is_expanded: bool
) -> list[dict[str, Any]]:
    """Return the entries of a folder, folders first.

    Raises:
        Refusal: If the commit has no such folder.
    """
    files = {path: entry for path, entry in commit.files.items() if is_inside(path, folder)}
    if folder and not files:
        raise entry_not_found(folder, commit.sha)
    depth = folder.count("/") + 1 if folder else 0
    parts = {path: path.split("/") for path in files}
    folders = {"/".join(names[:end]) for names in parts.values() for end in range(depth + 1, len(names))}
    if not is_recursive:
        folders = {path for path in folders if path.count("/") == depth}
        files = {path: entry for path, entry in files.items() if path.count("/") == depth}
    paths = [*sorted(folders), *files]
    return [_describe_path(repository, commit, path, is_expanded=is_expanded) for path in paths]


def describe_paths(
    repository: Repository, commit: Commit, paths: Collection[str], *, is_expanded: bool
) -> list[dict[str, Any]]:
    """Return the entries of the paths that are there."""
    names = [path.rstrip("/") for path in paths]
    known = [n for n in names if n in commit.files or any(is_inside(path, n) for path in commit.files if n)]
    return [_describe_path(repository, commit, path, is_expanded=is_expanded) for path in known]


def describe_commit(commit: Commit) -> dict[str, Any]:
    """Return one entry of a history."""
    return {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.description,
        "date": commit.date,
        "authors": [{"user": commit.author}],
    }


def _metadata(card: bytes) -> dict[str, Any]:
    """Return a card's metadata; empty if they cannot be read, as in a card uploaded as a large file."""
    try:
        return read_metadata(card.decode("utf-8", "replace"))
    except Refusal:
        return {}


def _sibling(path: str, entry: FileEntry, *, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid, **_large_file(entry, "sha256")}


def _large_file(entry: FileEntry, checksum_name: str) -> dict[str, Any]:
    if not entry.is_lfs:
        return {}
    pointer_size = len(lfs_pointer(entry.sha256, entry.size))
    return {"lfs": {checksum_name: entry.sha256, "size": entry.size, "pointerSize": pointer_size}}


def _describe_path(repository: Repository, commit: Commit, path: str, *, is_expanded: bool) -> dict[str, Any]:
    entry = commit.files.get(path)
    if entry is None:
        values: dict[str, Any] = {"type": "directory", "oid": _content_id(commit, path), "size": 0, "path": path}
    else:
        values = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path, **_large_file(entry, "oid")}
    if is_expanded:
        last = _last_change(repository, commit, path)
        values["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return values


def _content_id(commit: Commit, path: str) -> str:
    """Return an id of a file or folder that is the same for the same contents."""
    contents = [(name, entry.oid) for name, entry in commit.files.items() if name == path or is_inside(name, path)]
    return git_blob_id(repr(contents).encode())


def _last_change(repository: Repository, commit: Commit, path: str) -> Commit:
    """Return the newest commit that changed a path."""
    history = repository.history(commit)
    for newer, older in pairwise(history):
        if _content_id(newer, path) != _content_id(older, path):
            return newer
    return history[-1]
