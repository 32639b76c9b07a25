"""What a commit request asks for: newline-delimited JSON to a change of files."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from gradtx_hf.playground.hub_server.blobs import BlobStore, git_blob_id, lfs_pointer
from gradtx_hf.playground.hub_server.card import check_card
from gradtx_hf.playground.hub_server.refusal import Refusal
from gradtx_hf.playground.hub_server.repository import Commit, FileEntry, check_path, is_inside


@dataclass(frozen=True)
class CommitRequest:
    """A message, the commit that the client takes for the last, and operations in order, each a kind and fields."""

    title: str
    description: str
    parent: str | None
    operations: tuple[tuple[str, Mapping[str, str]], ...]


def parse_commit_request(body: bytes) -> CommitRequest:
    """Read the body of a commit request.

    Raises:
        Refusal: If it is not one.
    """
    try:
        items = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = items[0]["value"]
        if items[0]["key"] != "header":
            raise KeyError("header")
        operations = tuple((str(item["key"]), dict(item["value"])) for item in items[1:])
        title, description = str(header["summary"]), str(header.get("description") or "")
        return CommitRequest(title, description, header.get("parentCommit"), operations)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refusal(400, f"the commit's body is malformed: {type(error).__name__}: {error}") from error


def apply_changes(request: CommitRequest, *, parent: Commit, blobs: BlobStore) -> dict[str, FileEntry]:
    """Return the files after a commit; contents are kept, but no commit refers to them yet.

    Raises:
        Refusal: If an operation is unknown, or cannot be done.
    """
    files = dict(parent.files)
    for kind, fields in request.operations:
        path = str(fields.get("path", "")).rstrip("/")
        check_path(path)
        if kind == "file":
            files[path] = _add_file(path, fields, blobs)
        elif kind == "lfsFile":
            files[path] = _add_large_file(path, fields, blobs)
        elif kind in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or (kind == "deletedFolder" and is_inside(name, path))]
            if not gone:
                raise Refusal(404, f"'{path}' cannot be deleted, it does not exist", code="EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refusal(400, f"unknown operation '{kind}' in a commit.")
    _check_no_file_is_a_folder(files)
    return files


def _add_file(path: str, fields: Mapping[str, str], blobs: BlobStore) -> FileEntry:
    try:
        encoding, content = fields.get("encoding", "utf-8"), fields["content"]
        data = base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
    except (KeyError, binascii.Error, AttributeError, ValueError) as error:
        raise Refusal(400, f"the content of '{path}' cannot be read.") from error
    if path == "README.md":
        check_card(data)
    return FileEntry(blobs.put(data), len(data), git_blob_id(data), is_lfs=False)


def _add_large_file(path: str, fields: Mapping[str, str], blobs: BlobStore) -> FileEntry:
    sha256 = str(fields.get("oid", ""))
    if not blobs.holds(sha256):
        raise Refusal(400, f"the content of '{path}' was never uploaded. Upload it, then commit again.")
    size = blobs.size(sha256)
    return FileEntry(sha256, size, git_blob_id(lfs_pointer(sha256, size)), is_lfs=True)


def _check_no_file_is_a_folder(files: Mapping[str, FileEntry]) -> None:
    folders = {path[:i] for path in files for i, character in enumerate(path) if character == "/"}
    for path in folders & set(files):
        raise Refusal(400, f"'{path}' would be both a file and a folder.")
