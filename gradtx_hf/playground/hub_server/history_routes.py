"""Routes of a repository's history: references, commits, branches, tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from gradtx_hf.playground.hub_server.description import describe_commit
from gradtx_hf.playground.hub_server.refusal import Refusal, revision_not_found
from gradtx_hf.playground.hub_server.repository import DEFAULT_BRANCH, Repository, check_reference
from gradtx_hf.playground.hub_server.requests import CurrentHub, PathPart, Readable, Writable


router = APIRouter()


class NewBranch(BaseModel):
    """Where a branch begins."""

    startingPoint: str = DEFAULT_BRANCH


class NewTag(BaseModel):
    """A name for a commit."""

    tag: str


@router.get("/api/{kind}/{owner}/{name}/refs")
def list_references(repository: Readable, *, include_prs: bool = False) -> dict[str, Any]:
    """List branches, tags and, if asked for, pull requests."""
    references = {
        "branches": _describe(repository.branches, "refs/heads/"),
        "tags": _describe(repository.tags, "refs/tags/"),
        "converts": [],
    }
    return {**references, "pullRequests": _describe(repository.pulls, "")} if include_prs else references


@router.get("/api/{kind}/{owner}/{name}/commits/{revision}")
def list_commits(repository: Readable, revision: PathPart) -> list[dict[str, Any]]:
    """List a revision's commits, newest first."""
    return [describe_commit(commit) for commit in repository.history(repository.at(revision))]


@router.post("/api/{kind}/{owner}/{name}/branch/{branch}")
def create_branch(repository: Writable, branch: PathPart, new: NewBranch, hub: CurrentHub) -> dict[str, str]:
    """Make a branch."""
    check_reference(branch)

    def add(current: Repository) -> Repository:
        if branch in current.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        return replace(current, branches={**current.branches, branch: current.at(new.startingPoint).sha})

    hub.store.update(repository, add)
    return {}


@router.delete("/api/{kind}/{owner}/{name}/branch/{branch}")
def delete_branch(repository: Writable, branch: PathPart, hub: CurrentHub) -> dict[str, str]:
    """Remove a branch; its commits stay."""
    if branch == DEFAULT_BRANCH:
        raise Refusal(403, f"branch '{DEFAULT_BRANCH}' cannot be removed.")
    hub.store.update(repository, lambda current: replace(current, branches=_without(current.branches, branch)))
    return {}


@router.post("/api/{kind}/{owner}/{name}/tag/{revision}")
def create_tag(repository: Writable, revision: PathPart, new: NewTag, hub: CurrentHub) -> dict[str, str]:
    """Make a tag."""
    check_reference(new.tag)

    def add(current: Repository) -> Repository:
        if new.tag in current.tags:
            raise Refusal(409, f"Tag reference exists already: {new.tag}")
        return replace(current, tags={**current.tags, new.tag: current.at(revision).sha})

    hub.store.update(repository, add)
    return {}


@router.delete("/api/{kind}/{owner}/{name}/tag/{tag}")
def delete_tag(repository: Writable, tag: PathPart, hub: CurrentHub) -> dict[str, str]:
    """Remove a tag."""
    hub.store.update(repository, lambda current: replace(current, tags=_without(current.tags, tag)))
    return {}


def _describe(names: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": sha} for name, sha in names.items()]


def _without(names: Mapping[str, str], name: str) -> dict[str, str]:
    if name not in names:
        raise revision_not_found(name)
    return {other: sha for other, sha in names.items() if other != name}
