"""Routes of repositories as wholes: make, remove, set, find, describe."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from gradtx_hf.playground.hub_server.description import describe_repository
from gradtx_hf.playground.hub_server.listing import MAX_PAGE_SIZE, order, select, shorten
from gradtx_hf.playground.hub_server.refusal import Refusal, repository_not_found
from gradtx_hf.playground.hub_server.repository import DEFAULT_BRANCH, Gated, Kind
from gradtx_hf.playground.hub_server.requests import (
    CurrentHub,
    KnownUser,
    Readable,
    User,
    Writable,
    address,
)


router = APIRouter()


class RepositoryName(BaseModel):
    """A repository to make or remove."""

    name: str
    organization: str | None = None
    type: Literal["model", "dataset", "space"] = "model"

    @property
    def kind(self) -> Kind:
        """What kind of repository it is."""
        kinds: dict[str, Kind] = {"model": "models", "dataset": "datasets", "space": "spaces"}
        return kinds[self.type]

    def repo_id(self, user: str) -> str:
        """Return ``owner/name``; the owner is the user if none is named."""
        return f"{self.organization or user}/{self.name}"


class NewRepository(RepositoryName):
    """A repository to make."""

    visibility: Literal["public", "private"] | None = None
    private: bool = False
    sdk: str | None = None


class Settings(BaseModel):
    """Settings to change; None leaves one as it is."""

    visibility: Literal["public", "private"] | None = None
    private: bool | None = None
    gated: Gated | None = None


class Grant(BaseModel):
    """A user who shall read a gated repository."""

    user: str


class Search(BaseModel):
    """What a list of repositories is asked for; the names are the API's."""

    author: str = ""
    search: list[str] = []
    filter: list[str] = []
    pipeline_tag: str = ""
    sort: str = "trendingScore"
    direction: Literal["-1", "1"] = "-1"
    limit: int = Field(default=MAX_PAGE_SIZE, ge=1)
    cursor: int = Field(default=0, ge=0)
    full: bool = False
    cardData: bool = False
    expand: list[str] = []


@router.post("/api/repos/create")
def create(new: NewRepository, request: Request, hub: CurrentHub, user: KnownUser) -> dict[str, str]:
    """Make a repository."""
    repo_id = new.repo_id(user)
    if not hub.accounts.may_create(user, repo_id.partition("/")[0]):
        raise Refusal(403, f"You don't have the rights to create a {new.type} under the namespace of {repo_id}")
    existing = hub.store.find(new.kind, repo_id)
    if existing is not None:
        url = f"{address(request)}/{existing.url_path}"
        raise Refusal(409, f"You already created this {new.type} repo: {repo_id}", content={"url": url})
    is_private = new.private or new.visibility == "private"
    repository = hub.store.create(new.kind, repo_id, creator=user, is_private=is_private, sdk=new.sdk)
    return {"url": f"{address(request)}/{repository.url_path}", "name": repo_id, "id": repo_id}


@router.delete("/api/repos/delete")
def delete(named: RepositoryName, hub: CurrentHub, user: KnownUser) -> dict[str, str]:
    """Remove a repository."""
    repository = hub.store.find(named.kind, named.repo_id(user))
    if repository is None:
        raise repository_not_found(is_anonymous=False)
    hub.accounts.check_write(user, repository)
    hub.store.delete(repository)
    return {}


@router.get("/api/{kind}")
def search(
    kind: Kind, asked: Annotated[Search, Query()], request: Request, response: Response, hub: CurrentHub, user: User
) -> list[dict[str, Any]]:
    """List the repositories that the user may see, a page at a time."""
    visible = [r for r in hub.store.repositories(kind) if not r.is_private or hub.accounts.is_member(user, r)]
    items = [describe_repository(r, r.at(DEFAULT_BRANCH), blobs=hub.store.blobs) for r in visible]
    found = select(items, author=asked.author, search=asked.search, tags=asked.filter, pipeline_tag=asked.pipeline_tag)
    ordered = order(found, by=asked.sort, is_ascending=asked.direction == "1")
    end = asked.cursor + min(asked.limit, MAX_PAGE_SIZE)
    if end < len(ordered):
        following = request.url.include_query_params(cursor=end)
        response.headers["Link"] = f'<{following}>; rel="next"'
    page = ordered[asked.cursor : end]
    return [shorten(item, expand=asked.expand, is_full=asked.full, with_card=asked.cardData) for item in page]


@router.get("/api/{kind}/{owner}/{name}")
@router.get("/api/{kind}/{owner}/{name}/revision/{revision}")
def describe(
    repository: Readable,
    hub: CurrentHub,
    request: Request,
    expand: Annotated[list[str], Query(default_factory=list)],
    *,
    blobs: bool = False,
) -> dict[str, Any]:
    """Describe a repository at a revision."""
    commit = repository.at(unquote(request.path_params.get("revision", DEFAULT_BRANCH)))
    values = describe_repository(repository, commit, blobs=hub.store.blobs, with_blobs=blobs)
    return shorten(values, expand=expand, is_full=True, with_card=True) if expand else values


@router.put("/api/{kind}/{owner}/{name}/settings")
def set_settings(settings: Settings, repository: Writable, hub: CurrentHub) -> dict[str, Any]:
    """Change who may see a repository, and who may read its files."""
    is_private = settings.private if settings.visibility is None else settings.visibility == "private"
    changed = hub.store.update(
        repository,
        lambda current: replace(
            current,
            is_private=current.is_private if is_private is None else is_private,
            gated=current.gated if settings.gated is None else settings.gated,
        ),
    )
    return {"private": changed.is_private, "gated": changed.gated}


@router.post("/api/{kind}/{owner}/{name}/user-access-request/grant")
def grant(granted: Grant, repository: Writable, hub: CurrentHub) -> dict[str, str]:
    """Let a user read a gated repository."""
    hub.store.update(repository, lambda current: replace(current, granted=current.granted | {granted.user}))
    return {}


@router.get("/api/{kind}/{owner}/{name}/auth-check")
def check_access(repository: Readable, hub: CurrentHub, user: User) -> dict[str, str]:
    """Say whether the user may read a repository's files."""
    hub.accounts.check_download(user, repository)
    return {}
