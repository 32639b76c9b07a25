"""The users of the tests' Hub, and repositories put into it without going over the network."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.playground.hub_server.changes import CommitRequest
from gradtx_hf.playground.hub_server.repository import Gated, Kind


ALICE = "hf_" + "a" * 34
"""Token of alice, a member of the organization ``org``."""

BOB = "hf_" + "b" * 34
"""Token of bob, a member of none."""

USERS = {ALICE: "alice", BOB: "bob"}
ORGANIZATIONS = {"org": ["alice"]}


def add_repository(
    hub: HubServer,
    repo_id: str,
    files: Mapping[str, bytes],
    *,
    kind: Kind = "models",
    is_private: bool = False,
    gated: Gated = False,
) -> str:
    """Make a repository of alice's, in the place of one of that name, and return the commit that its main branch is."""
    existing = hub.store.find(kind, repo_id)
    if existing is not None:
        hub.store.delete(existing)
    repository = hub.store.create(kind, repo_id, creator="alice", is_private=is_private)
    hub.store.update(repository, lambda current: replace(current, gated=gated))
    return set_files(hub, repo_id, files, kind=kind)


def set_files(hub: HubServer, repo_id: str, files: Mapping[str, bytes], *, kind: Kind = "models") -> str:
    """Commit these files to the main branch in the place of all that is there, and return the commit."""
    repository = hub.store.find(kind, repo_id)
    assert repository is not None
    old = [("deletedFile", {"path": path}) for path in repository.at("main").files]
    new = [
        ("file", {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"})
        for path, content in files.items()
    ]
    request = CommitRequest(title="set files", description="", parent=None, operations=(*old, *new))
    return hub.store.commit(repository, "main", request, author="alice")[0].sha


def set_tag(hub: HubServer, repo_id: str, tag: str, commit: str, *, kind: Kind = "models") -> None:
    """Let a tag, or a pull request's ``refs/pr/1``, name a commit."""
    repository = hub.store.find(kind, repo_id)
    assert repository is not None
    if tag.startswith("refs/pr/"):
        hub.store.update(repository, lambda current: replace(current, pulls={**current.pulls, tag: commit}))
    else:
        hub.store.update(repository, lambda current: replace(current, tags={**current.tags, tag: commit}))


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
