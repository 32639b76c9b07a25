"""Routes that read files: trees, paths, contents."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from gradtx_hf.playground.hub_server.description import describe_paths, describe_tree
from gradtx_hf.playground.hub_server.refusal import entry_not_found
from gradtx_hf.playground.hub_server.requests import CurrentHub, PathPart, Readable, User


router = APIRouter()


@router.get("/api/{kind}/{owner}/{name}/tree/{revision}")
def list_root(
    repository: Readable, revision: PathPart, *, recursive: bool = False, expand: bool = False
) -> list[dict[str, Any]]:
    """List what is at the top of a repository, or all of it."""
    commit = repository.at(revision)
    return describe_tree(repository, commit, folder="", is_recursive=recursive, is_expanded=expand)


@router.get("/api/{kind}/{owner}/{name}/tree/{revision}/{path:path}")
def list_folder(
    repository: Readable, revision: PathPart, path: PathPart, *, recursive: bool = False, expand: bool = False
) -> list[dict[str, Any]]:
    """List what is in a folder."""
    commit = repository.at(revision)
    return describe_tree(repository, commit, folder=path.strip("/"), is_recursive=recursive, is_expanded=expand)


@router.post("/api/{kind}/{owner}/{name}/paths-info/{revision}")
async def describe_some(repository: Readable, revision: PathPart, request: Request) -> list[dict[str, Any]]:
    """Describe those of the named paths that are there; the body is a form or JSON."""
    if "json" in request.headers.get("content-type", ""):
        form = await request.json()
        paths, is_expanded = form["paths"], bool(form.get("expand"))
    else:
        fields = parse_qs((await request.body()).decode())
        paths, is_expanded = fields.get("paths", []), fields.get("expand", [""])[0].lower() in ("true", "1")
    return describe_paths(repository, repository.at(revision), paths, is_expanded=is_expanded)


@router.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
@router.api_route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def resolve(
    repository: Readable, revision: PathPart, path: PathPart, request: Request, hub: CurrentHub, user: User
) -> Response:
    """Send a file, or the asked-for range of it."""
    hub.accounts.check_download(user, repository)
    commit = repository.at(revision)
    entry = commit.files.get(path)
    if entry is None:
        raise entry_not_found(path, commit.sha)
    etag = f'"{entry.etag}"'
    headers = {"X-Repo-Commit": commit.sha, "ETag": etag, "Accept-Ranges": "bytes"}
    if entry.is_lfs:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.size)}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return FileResponse(hub.store.blobs.path(entry.sha256), headers=headers, media_type="application/octet-stream")
