"""A branch of a repository as it is now: its commit, its files, its README; made if it is not there."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoFile

from gradtx_hf.errors import HubError
from gradtx_hf.hub.destination import Destination, RepoKind
from gradtx_hf.hub.readme import kind_of
from gradtx_hf.hub.retry import DamagedTransferError, with_retries
from gradtx_hf.hub.wording import endpoint_name


README = "README.md"
HOUSEKEEPING = frozenset([".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt", README])
"""What a repository may hold that nobody has yet put anything into."""
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Head:
    """A branch as it was found: its commit, its files by path, its README."""

    commit: str
    files: Mapping[str, RepoFile]
    readme: str | None


@dataclass(frozen=True)
class Digest:
    """How the Hub would know a file's content: git's sha1 for small files, sha256 for large ones."""

    git_sha1: str
    sha256: str

    def is_of(self, file: RepoFile | None) -> bool:
        """Return whether a file on the Hub has this content."""
        if file is None:
            return False
        return file.lfs.sha256 == self.sha256 if file.lfs is not None else file.blob_id == self.git_sha1


def open_api(destination: Destination) -> HfApi:
    """Return the client that writes to a destination.

    Raises:
        HubError: If the network is switched off.
    """
    if constants.is_offline_mode():
        raise HubError(f"{destination} cannot be written: the network is switched off (HF_HUB_OFFLINE). Unset it.")
    return HfApi(endpoint=constants.ENDPOINT, token=destination.token, library_name="gradtx-hf")


def require_head(api: HfApi, destination: Destination, kind: RepoKind) -> Head:
    """Return the branch to write to; repository and branch are made if they are not there.

    Raises:
        HubError: If the repository holds something else, is public where a private one was meant, or cannot be made.
    """
    head = read_head(api, destination, kind)
    if head is None and _repo_info(api, destination) is None:
        _create_repo(api, destination)
        head = read_head(api, destination, kind)
    if head is None and destination.revision is not None:
        _create_branch(api, destination)
        head = read_head(api, destination, kind)
    if head is None:
        raise HubError(
            f"{destination} exists at {endpoint_name()}, but cannot be read. Give a token that may read and write it."
        )
    return head


def read_head(api: HfApi, destination: Destination, kind: RepoKind) -> Head | None:
    """Return the branch to write to as it is now; None if repository or branch is not there.

    Raises:
        HubError: If the repository holds something else, is public where a private one was meant, or cannot be read.
    """
    info = _repo_info(api, destination)
    if info is None:
        return None
    if destination.private and info.private is False:
        raise HubError(
            f"{destination} is public. Make it private in its settings, or say that it may be public (--public, "
            "private=False)."
        )
    branch = info if destination.revision is None else _repo_info(api, destination, revision=destination.revision)
    head = _read_files(api, destination, kind, str((branch or info).sha))  # something else gets no branch from us
    return None if branch is None else head


def _repo_info(api: HfApi, destination: Destination, *, revision: str | None = None) -> ModelInfo | DatasetInfo | None:
    """Return what the Hub says of a repository at a branch; None if there is none."""

    def request() -> ModelInfo | DatasetInfo | None:
        get_info = api.model_info if destination.repo_type == "model" else api.dataset_info
        try:
            return get_info(destination.repo_id, revision=revision)
        except GatedRepoError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    return with_retries(request, what=str(destination))


def _create_repo(api: HfApi, destination: Destination) -> None:
    with_retries(
        lambda: api.create_repo(
            destination.repo_id, private=destination.private, repo_type=destination.repo_type, exist_ok=True
        ),
        what=str(destination),
    )


def _create_branch(api: HfApi, destination: Destination) -> None:
    branch = str(destination.revision)
    with_retries(
        lambda: api.create_branch(destination.repo_id, branch=branch, repo_type=destination.repo_type, exist_ok=True),
        what=str(destination),
    )


def _read_files(api: HfApi, destination: Destination, kind: RepoKind, commit: str) -> Head:
    def list_files() -> dict[str, RepoFile]:
        entries = api.list_repo_tree(
            destination.repo_id, recursive=True, revision=commit, repo_type=destination.repo_type
        )
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    files = with_retries(list_files, what=str(destination))
    readme = None
    if README in files:
        readme = with_retries(
            lambda: _download_readme(api, destination, commit, files[README]), what=f"{README} of {destination}"
        )
    found = kind_of(readme)
    if found != kind.name and not HOUSEKEEPING.issuperset(files):
        what = f"a {found} of gradtx" if found else "files that gradtx did not write"
        raise HubError(
            f"{destination} holds {what}, which a {kind.name} is not to write over. Name another repository."
        )
    return Head(commit, files, readme)


def _download_readme(api: HfApi, destination: Destination, commit: str, file: RepoFile) -> str:
    """Return the README's text; past the cache, and checked, as a damaged one must not be written back."""
    with tempfile.TemporaryDirectory(prefix="gradtx-") as folder:
        path = api.hf_hub_download(
            destination.repo_id, README, revision=commit, repo_type=destination.repo_type, local_dir=folder
        )
        content = Path(path).read_bytes()
    if not digest_of(content).is_of(file):
        raise DamagedTransferError(f"{README} was damaged on its way")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise HubError(f"{README} of {destination} is not UTF-8, so it cannot be updated. Save it as UTF-8.") from error


def digest_of(content: Path | bytes) -> Digest:
    """Return the digests of a file or of its content."""
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    git_sha1, sha256 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
    if isinstance(content, bytes):
        git_sha1.update(content)
        sha256.update(content)
    else:
        with content.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                git_sha1.update(chunk)
                sha256.update(chunk)
    return Digest(git_sha1.hexdigest(), sha256.hexdigest())
