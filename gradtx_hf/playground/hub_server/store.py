"""The repositories of a Hub on disk: contents by checksum, one JSON file per commit, one per repository.

A commit is made by replacing its repository's file, in which the branch then names the new commit, and nothing before
that counts: a reader, and a server that was killed, sees all of a commit or nothing. Changes are made one by one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground.hub_server.blobs import BlobStore, git_blob_id
from gradtx_hf.playground.hub_server.changes import CommitRequest, apply_changes
from gradtx_hf.playground.hub_server.refusal import Refusal, revision_not_found
from gradtx_hf.playground.hub_server.repository import (
    DEFAULT_BRANCH,
    Commit,
    FileEntry,
    Kind,
    Repository,
    check_repo_id,
    now,
)


LFS_PATTERNS = (
    "*.arrow", "*.bin", "*.gz", "*.npy", "*.npz", "*.onnx", "*.parquet", "*.pt", "*.safetensors", "*.tar", "*.zip",
)  # fmt: skip
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


class HubStore:
    """All repositories in a folder.

    Args:
        folder: Where they are kept; made if it is not there.

    Raises:
        ConfigurationError: If another server is using the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "repositories"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.blobs = BlobStore(folder / "blobs")
        self._file_lock = FileLock(folder / ".lock")
        try:
            self._file_lock.acquire(timeout=0)
        except Timeout:
            raise ConfigurationError(f"data folder '{folder}' is used by another server. Name another one.") from None
        self._lock = threading.RLock()
        loaded = [_load(path.parent) for path in self._folder.glob("*/*/*/repository.json")]
        self._repositories = {(repository.kind, repository.repo_id): repository for repository in loaded}

    def close(self) -> None:
        """Leave the folder to other servers."""
        self._file_lock.release()

    def find(self, kind: Kind, repo_id: str) -> Repository | None:
        """Return a repository as it is now, None if there is none of that name."""
        return self._repositories.get((kind, repo_id))

    def repositories(self, kind: Kind) -> list[Repository]:
        """Return all repositories of one kind as they are now."""
        with self._lock:
            return [repository for (of_kind, _), repository in self._repositories.items() if of_kind == kind]

    def create(
        self, kind: Kind, repo_id: str, *, creator: str, is_private: bool = False, sdk: str | None = None
    ) -> Repository:
        """Make a repository with one commit, as the Hub does.

        Raises:
            Refusal: If there is one of that name, or the name cannot be one.
        """
        check_repo_id(repo_id)
        with self._lock:
            if self.find(kind, repo_id) is not None:
                raise Refusal(409, "You already created this repo")
            blob = self.blobs.put(GIT_ATTRIBUTES)
            entry = FileEntry(blob, len(GIT_ATTRIBUTES), git_blob_id(GIT_ATTRIBUTES), is_lfs=False)
            commit = _make_commit("initial commit", "", author=creator, parent=None, files={".gitattributes": entry})
            repository = Repository(
                kind=kind,
                repo_id=repo_id,
                creator=creator,
                created_at=commit.date,
                is_private=is_private,
                sdk=sdk,
                branches={DEFAULT_BRANCH: commit.sha},
            )
            return self._save(repository, commit)

    def delete(self, repository: Repository) -> None:
        """Remove a repository; contents stay, as others may have them too."""
        with self._lock:
            self._current(repository)
            del self._repositories[repository.kind, repository.repo_id]
            folder = self._path(repository)
            (folder / "repository.json").unlink()  # first: a folder without it is no repository
            shutil.rmtree(folder)

    def update(self, repository: Repository, change: Callable[[Repository], Repository]) -> Repository:
        """Put a changed repository in the place of what it is now, and return it.

        Raises:
            Refusal: If the repository is gone, or what ``change`` raises; then nothing is changed.
        """
        with self._lock:
            return self._save(change(self._current(repository)), None)

    def commit(
        self, repository: Repository, branch: str, request: CommitRequest, *, author: str, as_pull: bool = False
    ) -> tuple[Commit, str]:
        """Make a commit.

        Args:
            repository: Where.
            branch: The branch, or the pull request's reference, that it is added to.
            request: What it changes.
            author: The user who makes it.
            as_pull: Whether to open a pull request with it, instead of adding it to the branch.

        Returns:
            The commit, and the branch or pull request that now names it.

        Raises:
            Refusal: If it cannot be made; then nothing is changed.
        """
        with self._lock:
            current = self._current(repository)
            references = {**current.branches, **current.pulls}
            if branch not in references:
                raise revision_not_found(branch)
            parent = current.commits[references[branch]]
            if request.parent is not None and (len(request.parent) < 7 or not parent.sha.startswith(request.parent)):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = apply_changes(request, parent=parent, blobs=self.blobs)
            commit = _make_commit(request.title, request.description, author=author, parent=parent.sha, files=files)
            name = f"refs/pr/{len(current.pulls) + 1}" if as_pull else branch
            if name in current.branches:
                changed = replace(current, branches={**current.branches, name: commit.sha})
            else:
                changed = replace(current, pulls={**current.pulls, name: commit.sha})
            self._save(changed, commit)
            return commit, name

    def _current(self, repository: Repository) -> Repository:
        current = self.find(repository.kind, repository.repo_id)
        if current is None:
            raise Refusal(404, "Repository not found", code="RepoNotFound")
        return current

    def _save(self, repository: Repository, commit: Commit | None) -> Repository:
        """Write a repository, its new commit first."""
        folder = self._path(repository)
        if commit is not None:
            (folder / "commits").mkdir(parents=True, exist_ok=True)
            _write_json(folder / "commits" / f"{commit.sha}.json", asdict(commit))
            repository = replace(repository, commits={**repository.commits, commit.sha: commit})
        values = {field.name: getattr(repository, field.name) for field in fields(repository)}
        del values["commits"]
        _write_json(folder / "repository.json", {**values, "granted": sorted(repository.granted)})
        self._repositories[repository.kind, repository.repo_id] = repository
        return repository

    def _path(self, repository: Repository) -> Path:
        return self._folder / repository.kind / repository.repo_id


def _make_commit(
    title: str, description: str, *, author: str, parent: str | None, files: dict[str, FileEntry]
) -> Commit:
    date = now()
    identity = [title, description, author, parent, date, {path: entry.oid for path, entry in sorted(files.items())}]
    sha = hashlib.sha1(json.dumps(identity).encode()).hexdigest()
    return Commit(sha, title, description, author, date, parent, dict(sorted(files.items())))


def _load(folder: Path) -> Repository:
    """Read a repository and the commits that its references lead to."""
    values: dict[str, Any] = json.loads((folder / "repository.json").read_text(encoding="utf-8"))
    commits: dict[str, Commit] = {}
    for sha in {sha for names in ("branches", "tags", "pulls") for sha in values[names].values()}:
        parent: str | None = sha
        while parent is not None and parent not in commits:
            commits[parent] = _load_commit(folder / "commits" / f"{parent}.json")
            parent = commits[parent].parent
    return Repository(**{**values, "granted": frozenset(values["granted"])}, commits=commits)


def _load_commit(path: Path) -> Commit:
    values = json.loads(path.read_text(encoding="utf-8"))
    files = {name: FileEntry(**entry) for name, entry in values["files"].items()}
    return Commit(**{**values, "files": files})


def _write_json(path: Path, values: object) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(path)
