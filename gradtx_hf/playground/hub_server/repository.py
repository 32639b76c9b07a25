"""Repositories, commits and files as values; changing one means making another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Literal

from gradtx_hf.playground.hub_server.refusal import Refusal, revision_not_found


Kind = Literal["models", "datasets", "spaces"]
Gated = Literal["auto", "manual", False]
DEFAULT_BRANCH = "main"


@dataclass(frozen=True)
class FileEntry:
    """One file of one commit.

    Attributes:
        sha256: Checksum of the content.
        size: Bytes of the content.
        oid: Git's id of what git keeps: the content, or a pointer if the file is large.
        is_lfs: Whether git keeps a pointer.
    """

    sha256: str
    size: int
    oid: str
    is_lfs: bool

    @property
    def etag(self) -> str:
        """The tag by which clients know the content: the checksum of a large file, git's id of another."""
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One state of all files of a repository, by path, and who made it of which parent when (UTC)."""

    sha: str
    title: str
    description: str
    author: str
    date: str
    parent: str | None
    files: Mapping[str, FileEntry]


@dataclass(frozen=True)
class Repository:
    """A repository: its settings, its commits by sha, and the names of some of them.

    Attributes:
        kind: Models, data sets or Spaces.
        repo_id: ``owner/name``.
        creator: The user who made it.
        created_at: When (UTC).
        is_private: Whether only its members see it.
        gated: Whether its files are for its members and for users with a grant, though all see that it is there.
        sdk: What a Space runs on, None for the other kinds.
        granted: Users who may read the files of a gated repository.
        branches: Commits by branch.
        tags: Commits by tag.
        pulls: Commits by pull request, ``refs/pr/1`` and so on.
        commits: Every commit by its sha.
    """

    kind: Kind
    repo_id: str
    creator: str
    created_at: str
    is_private: bool = False
    gated: Gated = False
    sdk: str | None = None
    granted: frozenset[str] = frozenset()
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    pulls: Mapping[str, str] = field(default_factory=dict)
    commits: Mapping[str, Commit] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The user or organization in whose name it is."""
        return self.repo_id.partition("/")[0]

    @property
    def url_path(self) -> str:
        """Where its page is, below the Hub's address."""
        return self.repo_id if self.kind == "models" else f"{self.kind}/{self.repo_id}"

    def at(self, revision: str) -> Commit:
        """Return the commit of a branch, tag, pull request, sha, or at least 7 characters of a sha.

        Raises:
            Refusal: If there is none.
        """
        for names in (self.branches, self.tags, self.pulls):
            if revision in names:
                return self.commits[names[revision]]
        if revision in self.commits:
            return self.commits[revision]
        matches = [sha for sha in self.commits if sha.startswith(revision)] if len(revision) >= 7 else []
        if len(matches) != 1:
            raise revision_not_found(revision)
        return self.commits[matches[0]]

    def history(self, commit: Commit) -> list[Commit]:
        """Return a commit and all before it, newest first."""
        commits = [commit]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path is below a folder; every path is below the empty one."""
    return not folder or path.startswith(f"{folder}/")


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be ``owner/name``.

    Raises:
        Refusal: If it cannot.
    """
    names = repo_id.split("/")
    is_valid = len(names) == 2 and all(re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]{0,95}", n, re.ASCII) for n in names)
    if not is_valid or repo_id.endswith((".git", ".", "-")):
        raise Refusal(400, f"'{repo_id}' is no repository id. Use letters, digits, '-', '_' and '.': 'owner/name'.")


def check_path(path: str) -> None:
    """Refuse a path that leads out of a repository, or that git keeps for itself.

    Raises:
        Refusal: If it does.
    """
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or {"..", ".git"} & set(parts) or "\0" in path:
        raise Refusal(400, f"'{path}' is no path inside a repository.")


def check_reference(name: str) -> None:
    """Refuse a name that no branch or tag can have.

    Raises:
        Refusal: If it is one.
    """
    if not re.fullmatch(r"(?!refs/)(?!.*(\.\.|//))[\w][\w./-]{0,200}", name) or name.endswith(("/", ".", ".lock")):
        raise Refusal(400, f"Invalid reference for a branch or a tag: '{name}'.")


def now() -> str:
    """Return the time in UTC, to the microsecond, as the Hub writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
