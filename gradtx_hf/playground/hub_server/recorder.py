"""What a server was asked, for tests of who called it and with which token."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True)
class RecordedRequest:
    """One request: its method, its decoded path with the query, its ``Authorization`` header or an empty string."""

    method: str
    path: str
    authorization: str


class Recorder:
    """Record each request before anything else sees it.

    Args:
        app: What is served.
        num_kept: How many of the last requests are kept, at least 1; None: all.

    It also leaves ``%2F`` in paths as it is, which servers otherwise decode before routes are matched: the Hub's
    clients tell a revision with a slash from a path by it.
    """

    def __init__(self, app: ASGIApp, *, num_kept: int | None) -> None:
        self._app = app
        self._num_kept = num_kept
        self.requests: list[RecordedRequest] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record a request and pass it on."""
        if scope["type"] == "http":
            path = scope["raw_path"].decode()
            query = scope["query_string"].decode()
            authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            shown = unquote(path) + (f"?{unquote(query)}" if query else "")
            self.requests.append(RecordedRequest(scope["method"], shown, authorization))
            if self._num_kept is not None:
                del self.requests[: -self._num_kept]
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)
