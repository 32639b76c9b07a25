"""What routes need to know of a request: the Hub, the user, the repository, and path parts as they were meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast, get_args
from urllib.parse import unquote

from fastapi import Depends, Request
from pydantic import AfterValidator

from gradtx_hf.playground.hub_server.access import Accounts
from gradtx_hf.playground.hub_server.faults import Faults
from gradtx_hf.playground.hub_server.refusal import Refusal, repository_not_found
from gradtx_hf.playground.hub_server.repository import Kind, Repository
from gradtx_hf.playground.hub_server.store import HubStore


KINDS: tuple[Kind, ...] = get_args(Kind)
PathPart = Annotated[str, AfterValidator(unquote)]
"""A part of a path, in which ``%2F`` has become a slash."""


@dataclass(frozen=True)
class Hub:
    """What a server serves, and to whom."""

    store: HubStore
    accounts: Accounts
    faults: Faults


async def _hub(request: Request) -> Hub:
    return cast(Hub, request.app.state.hub)


CurrentHub = Annotated[Hub, Depends(_hub)]


async def _user(request: Request, hub: CurrentHub) -> str | None:
    return hub.accounts.user(request.headers.get("authorization"))


User = Annotated[str | None, Depends(_user)]


async def _known_user(user: User) -> str:
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return user


KnownUser = Annotated[str, Depends(_known_user)]


async def _readable(request: Request, hub: CurrentHub, user: User) -> Repository:
    parts = {name: unquote(value) for name, value in request.path_params.items()}
    kind = parts.get("kind", "models")
    if kind not in KINDS:
        raise repository_not_found(is_anonymous=user is None)
    repository = hub.store.find(kind, f"{parts['owner']}/{parts['name']}")
    if repository is None:
        raise repository_not_found(is_anonymous=user is None)
    hub.accounts.check_read(user, repository)
    return repository


Readable = Annotated[Repository, Depends(_readable)]
"""The repository that a path names, if the user may see it."""


async def _writable(hub: CurrentHub, user: User, repository: Readable) -> Repository:
    hub.accounts.check_write(user, repository)
    return repository


Writable = Annotated[Repository, Depends(_writable)]
"""The repository that a path names, if the user may change it."""


def address(request: Request) -> str:
    """Return the Hub's address as this client calls it."""
    return str(request.base_url).rstrip("/")
