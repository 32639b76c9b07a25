"""Bring what a user names, a folder or a repository on the Hub, to a folder on this machine, or to a commit.

Only JSON, safetensors and Markdown files are fetched: nothing that could run code. No message holds a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: the HTTP client's own, not re-exported
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from gradtx_hf.errors import ConfigurationError, GradTxError, MissingFileError, safe_text
from gradtx_hf.hub.arrival import cached_blobs, remove_damaged
from gradtx_hf.hub.destination import COMMIT_PATTERN, check_token, is_full_repo_id, is_repo_id
from gradtx_hf.hub.wording import endpoint_name
from gradtx_hf.playground import local_name
from gradtx_hf.updates.reading import ForeignFolder


RepoType = Literal["model", "dataset"]

FETCHED_PATTERNS: dict[RepoType, tuple[str, ...]] = {
    "model": ("*.json", "*.safetensors", "*.md"),
    "dataset": ("*.json", "*.safetensors", "*.md", "*.parquet"),
}


@dataclass(frozen=True)
class ResolvedFolder:
    """A folder on this machine and where it came from.

    Attributes:
        path: The folder.
        name: What the user called it, without a revision; messages and cards use it.
        commit: The commit's sha if it came from the Hub, None for a local folder.
    """

    path: Path
    name: str
    commit: str | None


def resolve_folder(
    repo_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    subfolder: str | None = None,
    force_download: bool = False,
) -> ResolvedFolder:
    """Return a local folder as it is, or fetch a repository's files.

    Args:
        repo_or_path: A folder that exists, ``owner/name`` or ``owner/name@revision`` on the Hub, or the name of what is
            embedded in the package (see ``gradtx_hf.playground``).
        revision: Branch, tag or commit of the repository; the default branch if None.
        token: Access token; the one that ``hf auth login`` stored if None.
        cache_dir: Where fetched files are kept; the Hub's cache if None.
        local_files_only: Whether to use only what the cache holds, without the network.
        subfolder: Folder inside the repository or the local folder to return.
        force_download: Whether to fetch again what the cache holds.

    Raises:
        ConfigurationError: If arguments contradict each other, or one cannot be used.
        MissingFileError: If there is neither a folder nor a repository of that name that can be read.
    """
    local = local_name(str(repo_or_path))
    if _exists(local):
        if revision is not None:
            raise ConfigurationError(
                f"'{repo_or_path}' is a local folder, which has no revision '{safe_text(revision)}'. "
                "Leave the revision out."
            )
        return ResolvedFolder(_inner(Path(local), subfolder, str(repo_or_path)), str(repo_or_path), None)
    fetched = fetch_repository(
        str(repo_or_path),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return ResolvedFolder(_inner(fetched.path, subfolder, fetched.name), fetched.name, fetched.commit)


def fetch_repository(
    name: str,
    *,
    repo_type: RepoType = "model",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> ResolvedFolder:
    """Fetch a repository's files into the cache; what is there already is not fetched again.

    A large file that arrives damaged is fetched once more.

    Args:
        name: ``owner/name`` or ``owner/name@revision`` on the Hub.
        repo_type: What kind of repository.
        revision: Branch, tag or commit; the default branch if None.
        token: Access token; the one that ``hf auth login`` stored if None.
        cache_dir: Where fetched files are kept; the Hub's cache if None.
        local_files_only: Whether to use only what the cache holds, without the network.
        force_download: Whether to fetch again what the cache holds.

    Raises:
        ConfigurationError: If arguments contradict each other, or one cannot be used.
        MissingFileError: If there is no repository of that name that can be read, or a file stays damaged.
    """
    repo, revision = _split_revision(name, revision)
    check_token(token)
    patterns = FETCHED_PATTERNS[repo_type]

    def fetch() -> Path:
        try:
            fetched = snapshot_download(
                repo,
                repo_type=repo_type,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
                allow_patterns=list(patterns),
            )
        except (HTTPError, OSError, HFValidationError) as error:
            raise _explain(error, repo=repo, revision=revision, local_files_only=local_files_only) from error
        return Path(fetched)

    known = frozenset() if force_download else cached_blobs(repo, repo_type=repo_type, cache_dir=cache_dir)
    folder = fetch()
    if remove_damaged(folder, known=known) and (damaged := remove_damaged(folder := fetch(), known=known)):
        raise MissingFileError(
            f"{len(damaged)} files of repository '{repo}' do not arrive as {endpoint_name()} says that they are, such "
            f"as '{damaged[0]}'. Try again; if it stays so, tell the repository's owner."
        )
    if not folder.is_dir():
        raise MissingFileError(
            f"repository '{repo}' holds no {', '.join(patterns)} file. Give the id of one that does."
        )
    return ResolvedFolder(folder, repo, folder.name)


def pin_revision(repo_id: str, *, revision: str | None, repo_type: RepoType, token: str | None = None) -> str | None:
    """Return the commit that a revision of a repository stands for now, so that it stays the same from here on.

    Args:
        repo_id: ``owner/name`` or ``name`` on the Hub; a local path is none, and its revision is returned unchanged.
        revision: Branch, tag or commit; the default branch if None.
        repo_type: What kind of repository.
        token: Access token; the one that ``hf auth login`` stored if None.

    Returns:
        The commit's sha; without the network, the one in the cache, or else the revision as it was given.

    Raises:
        ConfigurationError: If the token cannot be one.
        MissingFileError: If there is no such repository or revision that can be read.
    """
    if COMMIT_PATTERN.fullmatch(revision or "") or _exists(repo_id) or not is_repo_id(repo_id):
        return revision
    check_token(token)
    api = HfApi(endpoint=constants.ENDPOINT)
    get_info = api.model_info if repo_type == "model" else api.dataset_info
    try:
        return get_info(repo_id, revision=revision, token=token).sha
    except (HTTPError, OSError) as error:
        has_no_answer = isinstance(error, OfflineModeIsEnabled) or not isinstance(error, (HfHubHTTPError, OSError))
        if not has_no_answer:
            raise _explain(error, repo=repo_id, revision=revision, local_files_only=False) from error
        return _cached_commit(repo_id, revision=revision, repo_type=repo_type) or revision


def _cached_commit(repo_id: str, *, revision: str | None, repo_type: str) -> str | None:
    """Return what the Hub's cache last knew of a revision."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    path = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = path.read_text(encoding="utf-8").strip() if ".." not in path.parts and path.is_file() else ""
    return commit if COMMIT_PATTERN.fullmatch(commit) else None


def _exists(path: str | Path) -> bool:
    try:
        return path != "" and Path(path).exists()
    except OSError:  # a name that no file system takes
        return False


def _split_revision(name: str, revision: str | None) -> tuple[str, str | None]:
    """Split ``owner/name@revision``, and check that it can be a repository's id."""
    repo, _, own_revision = name.partition("@")
    if not is_full_repo_id(repo):
        raise MissingFileError(
            f"'{safe_text(name)}' is no folder on this machine, and no repository id. "
            "Check the path, or give an id such as 'owner/name'."
        )
    if own_revision and revision and own_revision != revision:
        raise ConfigurationError(
            f"'{safe_text(name)}' names a revision, and another one is given, '{safe_text(revision)}'. "
            "Give one of them."
        )
    return repo, own_revision or revision


def _inner(folder: Path, subfolder: str | None, name: str) -> Path:
    """Return the folder, or a folder inside it, that must be there."""
    if subfolder is not None:
        parts = PurePosixPath(subfolder)
        if parts.is_absolute() or ".." in parts.parts:
            raise ConfigurationError(f"subfolder '{subfolder}' leads out of '{name}'. Give a folder inside it.")
        folder = ForeignFolder(folder, f"'{name}'", ConfigurationError).find(str(parts)) or folder / parts
    if not folder.is_dir():
        place = f"'{name}' has no folder '{subfolder}'" if subfolder is not None else f"'{name}' is not a folder"
        raise MissingFileError(f"{place}. Check the path.")
    return folder


def _explain(error: Exception, *, repo: str, revision: str | None, local_files_only: bool) -> GradTxError:
    """Say in one line why a repository could not be fetched, and what to do."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    at_revision = f" at revision '{safe_text(revision)}'" if revision else ""
    if isinstance(cause, GatedRepoError):
        text = f"repository '{repo}' is gated. Ask for access on its page, then give a token of that account"
    elif isinstance(cause, RevisionNotFoundError):
        text = f"repository '{repo}' has no revision '{safe_text(revision or 'main')}'. Check the revision"
    elif isinstance(cause, RepositoryNotFoundError):
        text = (
            f"there is no folder '{repo}', and no repository '{repo}' that you may read at {endpoint_name()}. "
            "Check the id; if it is private, give a token (or run 'hf auth login')"
        )
    elif isinstance(cause, LocalTokenNotFoundError):
        text = "no token is stored on this machine. Run 'hf auth login', or give one"
    elif status in (401, 403):
        text = f"{endpoint_name()} refuses the token for repository '{repo}' (HTTP {status}). Give a valid one"
    elif status is not None:
        text = f"{endpoint_name()} failed with HTTP {status} for repository '{repo}'. Try again later"
    elif local_files_only or constants.is_offline_mode():
        text = (
            f"repository '{repo}'{at_revision} is not, or not wholly, in the cache, and the network is switched off. "
            "Allow the network once"
        )
    elif isinstance(cause, HFValidationError):
        text = f"'{repo}' is no repository id. Give one such as 'owner/name'"
    elif isinstance(cause, HTTPError) or isinstance(error, LocalEntryNotFoundError):
        text = (
            f"there is no folder '{repo}', and repository '{repo}'{at_revision} is not in the cache and cannot be "
            f"fetched: no connection to {endpoint_name()} ({type(cause).__name__}). Check the path or the network"
        )
    else:
        text = f"repository '{repo}' cannot be stored: {safe_text(str(cause))}. Check the disk and cache_dir"
    return MissingFileError(f"{text}.")
