"""Write to a repository on the Hub: one commit that holds everything, or nothing.

A commit names its parent, so that a change which someone else made meanwhile is never written over; and after a lost
answer the repository itself tells whether the commit was made.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile

from gradtx_hf.errors import HubError
from gradtx_hf.hub.branch import README, Digest, Head, digest_of, open_api, read_head, require_head
from gradtx_hf.hub.destination import Destination, RepoKind
from gradtx_hf.hub.readme import Card, update_readme
from gradtx_hf.hub.retry import TRANSFER_ERRORS, WAITS, explain, pause, seconds_to_wait, with_retries
from gradtx_hf.hub.wording import endpoint_name


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        repo_id: The repository.
        commit: The sha of the commit that holds it.
        url: The address to look at.
        is_changed: Whether a commit was made; False where the repository held all of it already.
    """

    repo_id: str
    commit: str
    url: str
    is_changed: bool


def publish(
    files: Mapping[str, Path | bytes],
    destination: Destination,
    *,
    kind: RepoKind,
    card: Card,
    commit_message: str,
) -> Published:
    """Write files and a card as one commit.

    A new repository is made if there is none. Of an existing one the files of its kind are replaced, those that are
    no longer there removed, and the card is brought up to date (see ``update_readme``); other files stay.

    Args:
        files: Path in the repository to a file or its content; without README.md.
        destination: Where.
        kind: What the repository holds.
        card: Its card.
        commit_message: First line of the commit.

    Raises:
        HubError: If the repository holds something else, is public where a private one was meant, changed meanwhile,
            or cannot be written. Nothing was written then.
    """
    api = open_api(destination)
    head = require_head(api, destination, kind)
    readme = update_readme(head.readme, card=card, kind=kind.name, name=destination.repo_id)
    contents = {**files, README: readme.encode()}
    digests = {path: digest_of(content) for path, content in contents.items()}
    commit = head.commit
    if is_changed := not _is_in_place(head.files, digests, kind):
        commit = _commit(api, destination, contents, digests, kind=kind, head=head, message=commit_message)
    logger.info("%s %s", "published" if is_changed else "unchanged:", url := _url(destination))
    return Published(destination.repo_id, commit, url, is_changed)


def require_publishable(destination: Destination, *, kind: RepoKind) -> None:
    """Check, without writing anything, that a repository can be published to: before the work, not after it.

    Raises:
        HubError: As ``publish`` would, as far as that can be told.
    """
    api = open_api(destination)
    with_retries(lambda: api.whoami(token=destination.token), what=str(destination))
    read_head(api, destination, kind)


def _commit(
    api: HfApi,
    destination: Destination,
    contents: Mapping[str, Path | bytes],
    digests: Mapping[str, Digest],
    *,
    kind: RepoKind,
    head: Head,
    message: str,
) -> str:
    """Make the commit and return its sha."""
    for wait in (*WAITS, None):
        additions = [CommitOperationAdd(path, content) for path, content in contents.items()]
        deletions = [CommitOperationDelete(path) for path in _stale(head.files, contents, kind)]
        try:
            return api.create_commit(
                destination.repo_id,
                [*additions, *deletions],
                commit_message=message,
                repo_type=destination.repo_type,
                revision=destination.revision,
                parent_commit=head.commit,
            ).oid
        except TRANSFER_ERRORS as error:
            now = _head_after_failure(api, destination, kind)
            if now.commit != head.commit:
                if _is_in_place(now.files, digests, kind):  # the answer was lost, the commit was made
                    return now.commit
                raise _conflict(destination) from error
            seconds = seconds_to_wait(error, wait)
            if seconds is None:
                raise explain(error, what=str(destination)) from error
            pause(seconds, error)
    raise AssertionError("the last wait is None, which ends the loop")


def _head_after_failure(api: HfApi, destination: Destination, kind: RepoKind) -> Head:
    """Return the branch after a commit that failed, or whose answer was lost: only the branch can tell which."""
    try:
        return require_head(api, destination, kind)
    except HubError as error:
        raise HubError(
            f"it is not known whether {destination} was written: the commit failed, and after that the repository "
            "could not be read. Push again: what is there already is not written twice."
        ) from error


def _conflict(destination: Destination) -> HubError:
    return HubError(
        f"{destination} was changed by someone else while it was being written. That change was not written over: "
        "look at it, then push again."
    )


def _is_in_place(files: Mapping[str, RepoFile], digests: Mapping[str, Digest], kind: RepoKind) -> bool:
    """Return whether a repository holds all files with the same content, and no stale one."""
    is_held = all(digest.is_of(files.get(path)) for path, digest in digests.items())
    return is_held and not _stale(files, digests, kind)


def _stale(files: Mapping[str, RepoFile], contents: Mapping[str, object], kind: RepoKind) -> list[str]:
    """Return the files of the kind that are in the repository and are not to be there any longer."""
    owned = [path for path in files if any(fnmatch.fnmatchcase(path, pattern) for pattern in kind.owned)]
    return sorted(set(owned) - set(contents))


def _url(destination: Destination) -> str:
    prefix = "" if destination.repo_type == "model" else f"{destination.repo_type}s/"
    branch = f"/tree/{destination.revision}" if destination.revision else ""
    return f"{endpoint_name()}/{prefix}{destination.repo_id}{branch}"
