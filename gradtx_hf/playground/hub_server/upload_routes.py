"""Routes that write files: how each is to be uploaded, large contents, and the commit that makes them part of it."""

from __future__ import annotations

import base64
import binascii
from fnmatch import fnmatchcase
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from gradtx_hf.playground.hub_server.changes import parse_commit_request
from gradtx_hf.playground.hub_server.refusal import Refusal, revision_not_found
from gradtx_hf.playground.hub_server.requests import CurrentHub, KnownUser, PathPart, Writable, address
from gradtx_hf.playground.hub_server.store import LFS_PATTERNS


MAX_REGULAR_SIZE = 10 * 1024**2  # bytes, as on the Hub

router = APIRouter()


class AnnouncedFile(BaseModel):
    """A file that is going to be committed: its path, its size in bytes, and how it begins."""

    path: str
    size: int
    sample: str = ""

    @property
    def is_large(self) -> bool:
        """Whether git shall keep a pointer in its place: by name, by size, or as it is no text."""
        if self.size > MAX_REGULAR_SIZE or any(fnmatchcase(self.path, pattern) for pattern in LFS_PATTERNS):
            return True
        try:
            return b"\0" in base64.b64decode(self.sample)
        except binascii.Error as error:
            raise Refusal(400, f"the sample of '{self.path}' is no base64.") from error


class Announcement(BaseModel):
    """The files of a commit to come."""

    files: list[AnnouncedFile]


class LargeObject(BaseModel):
    """A content by its sha256, and its size in bytes."""

    oid: str
    size: int


class Batch(BaseModel):
    """Contents to upload."""

    objects: list[LargeObject]


@router.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
def announce(announced: Announcement, repository: Writable, revision: PathPart) -> dict[str, Any]:
    """Say how to upload each file, and the id of what is there already, so that the same is not sent again."""
    files = repository.at(revision).files
    answers = []
    for file in announced.files:
        entry = files.get(file.path)
        mode = "lfs" if file.is_large else "regular"
        oid = entry.etag if entry is not None else None
        answers.append({"path": file.path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return {"files": answers}


@router.post("/{owner}/{name}.git/info/lfs/objects/batch")
@router.post("/{kind}/{owner}/{name}.git/info/lfs/objects/batch")
def begin_uploads(batch: Batch, repository: Writable, request: Request, hub: CurrentHub) -> dict[str, Any]:
    """Say where to put the contents that are not there yet (git-lfs batch API)."""
    objects = []
    for item in batch.objects:
        actions = {"actions": {"upload": {"href": f"{address(request)}/lfs/{item.oid}"}}}
        is_there = hub.store.blobs.holds(item.oid)
        objects.append({"oid": item.oid, "size": item.size, **({} if is_there else actions)})
    return {"transfer": "basic", "objects": objects}


@router.put("/lfs/{sha256}")
async def upload(sha256: str, request: Request, hub: CurrentHub) -> dict[str, str]:
    """Take a content whose checksum is known; clients send no token here, as the Hub's addresses are signed."""
    await hub.store.blobs.receive(request.stream(), sha256=sha256)
    return {}


@router.post("/api/{kind}/{owner}/{name}/commit/{revision}")
async def commit(
    repository: Writable,
    revision: PathPart,
    request: Request,
    hub: CurrentHub,
    user: KnownUser,
    *,
    create_pr: bool = False,
) -> dict[str, Any]:
    """Make a commit, all of it or nothing."""
    asked = parse_commit_request(await request.body())
    if not create_pr and revision not in {**repository.branches, **repository.pulls}:
        raise revision_not_found(revision)
    made, reference = await run_in_threadpool(
        hub.store.commit, repository, revision, asked, author=user, as_pull=create_pr
    )
    url = f"{address(request)}/{repository.url_path}"
    answer = {"success": True, "commitOid": made.sha, "commitUrl": f"{url}/commit/{made.sha}", "hookOutput": ""}
    return {**answer, "pullRequestUrl": f"{url}/discussions/{reference.rpartition('/')[2]}"} if create_pr else answer
