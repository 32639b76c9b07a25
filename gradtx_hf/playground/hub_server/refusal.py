"""What the Hub refuses, as its clients understand it: a status, an error code in a header, one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import JSONResponse


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 400 to 599.
        message: One line for the user.
        code: The Hub's ``X-Error-Code``, by which clients choose the exception they raise; none if empty.
        headers: Further headers.
        content: Further fields of the JSON body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
        content: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers)
        self.content = {"error": message, **content}
        if code:
            self.headers["X-Error-Code"] = code

    def response(self) -> JSONResponse:
        """Return the answer to send; a HEAD request sees its headers alone."""
        text = " ".join(self.message.split()).encode("ascii", "replace").decode()
        return JSONResponse(self.content, self.status, {"X-Error-Message": text, **self.headers})


def repository_not_found(*, is_anonymous: bool) -> Refusal:
    """Return the answer for a repository that is not there or not for this user: the Hub does not say which."""
    if is_anonymous:
        return Refusal(401, "Invalid username or password.", code="RepoNotFound")
    return Refusal(404, "Repository not found", code="RepoNotFound")


def revision_not_found(revision: str) -> Refusal:
    """Return the answer for a branch, tag or commit that a repository does not have."""
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, sha: str) -> Refusal:
    """Return the answer for a file or folder that a commit does not have."""
    return Refusal(
        404, f"'{path}' does not exist at commit {sha}", code="EntryNotFound", headers={"X-Repo-Commit": sha}
    )
