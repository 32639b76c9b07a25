"""Faults on demand: what a bad network or a failing Hub does, to the requests that were named."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random
from typing import Literal, get_args
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground.hub_server.refusal import Refusal


FaultKind = Literal[
    "403",
    "500",
    "503",
    "429",
    "drop_upload",
    "drop_response",
    "drop_download",
    "slow_download",
    "corrupt_upload",
    "corrupt_download",
]
"""``403``, ``500``, ``503``: refused without being done. ``429``: the same, with a Retry-After header. ``drop_upload``:
the connection ends in the middle of the request's body. ``drop_response``: the request is done, and the connection ends
before the answer. ``drop_download``: the connection ends in the middle of the answer's body. ``slow_download``: the
body takes its time. ``corrupt_upload``, ``corrupt_download``: one byte of the body is another one."""

FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
METHODS_WITH_A_BODY = {"upload": ("POST", "PUT"), "download": ("GET",)}
UNCUT_PATHS = ("/playground/*",)
NUM_SLOW_PIECES = 10


@dataclass
class Fault:
    """Which requests fail, and how.

    Attributes:
        kinds: What happens; one of those that the request can have is drawn.
        method: Pattern of the HTTP method, as in ``fnmatch``.
        path: Pattern of the decoded path without the query.
        times: How often it still happens, None for ever.
        probability: Share of matching requests that it happens to, in [0, 1].
        random: What draws.
        seconds: What ``429`` asks to wait, and what ``slow_download`` takes.
    """

    kinds: tuple[FaultKind, ...]
    method: str
    path: str
    times: int | None
    probability: float
    random: Random
    seconds: float

    def draw(self, method: str, path: str) -> FaultKind | None:
        """Return what happens to a request, None if nothing does."""
        if self.times == 0 or not (fnmatchcase(method, self.method) and fnmatchcase(path, self.path)):
            return None
        kinds = [kind for kind in self.kinds if method in METHODS_WITH_A_BODY.get(kind.rpartition("_")[2], (method,))]
        if not kinds or self.random.random() >= self.probability:
            return None
        if self.times is not None:
            self.times -= 1
        return self.random.choice(kinds)


class Faults:
    """The faults of a server; ``list(faults)`` shows those that can still happen."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Fault]:
        with self._lock:
            return iter([fault for fault in self._faults if fault.times != 0])

    def add(
        self,
        *kinds: FaultKind,
        method: str = "*",
        path: str = "*",
        times: int | None = None,
        probability: float = 1.0,
        seed: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Let requests fail from now on; see ``Fault`` and ``FaultKind``. The first that fits a request is taken.

        Raises:
            ConfigurationError: If a value is out of range.
        """
        unknown = [kind for kind in kinds if kind not in FAULT_KINDS]
        if unknown or not kinds:
            raise ConfigurationError(f"got fault kind {unknown or 'none'}, expected one of {', '.join(FAULT_KINDS)}.")
        if not 0.0 <= probability <= 1.0:
            raise ConfigurationError(f"got fault probability {probability}, expected a number from 0 to 1.")
        if seconds < 0 or (times is not None and times < 1):
            raise ConfigurationError(f"got seconds {seconds}, times {times}, expected at least 0, and at least 1.")
        with self._lock:
            self._faults.append(Fault(kinds, method, path, times, probability, Random(seed), seconds))

    def clear(self) -> None:
        """Let nothing fail any more."""
        with self._lock:
            self._faults.clear()

    def draw(self, method: str, path: str) -> tuple[FaultKind, float] | None:
        """Return what happens to a request, and its seconds; None if nothing does."""
        if any(fnmatchcase(path, pattern) for pattern in UNCUT_PATHS):
            return None
        with self._lock:
            for fault in self._faults:
                kind = fault.draw(method, path)
                if kind is not None:
                    return kind, fault.seconds
        return None


class FaultInjector:
    """Pass requests on, or let them fail.

    Args:
        app: What answers requests.
        faults: What fails.
    """

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or fail to; needs the connection as ``scope["transport"]``."""
        drawn = self._faults.draw(scope["method"], unquote(scope["path"])) if scope["type"] == "http" else None
        if drawn is None:
            await self._app(scope, receive, send)
            return
        kind, seconds = drawn
        if kind.isdigit():
            await _drain(receive)
            headers = {"Retry-After": f"{seconds:g}"} if kind == "429" else {}
            refusal = Refusal(int(kind), "a fault was asked for", headers=headers)
            await refusal.response()(scope, receive, send)
        elif kind == "drop_upload":
            await receive()
            await _drop(scope, receive)
        elif kind == "drop_response":
            await self._app(scope, receive, _send_nothing)
            await _drop(scope, receive)
        elif kind == "corrupt_upload":
            await self._app(scope, _CorruptedReceive(receive), send)
        else:
            await self._app(scope, receive, _FaultyBody(kind, seconds, scope, receive, send))


class _CorruptedReceive:
    """The request's body with another last byte in its first piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_done = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if not self._is_done and message.get("body"):
            self._is_done = True
            message = {**message, "body": _flip_last_byte(message["body"])}
        return message


class _FaultyBody:
    """Send the head of an answer as it is, and the first piece of its body cut, slowed or changed."""

    def __init__(self, kind: FaultKind, seconds: float, scope: Scope, receive: Receive, send: Send) -> None:
        self._kind = kind
        self._seconds = seconds
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_done = False

    async def __call__(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if message["type"] != "http.response.body" or not body or (self._is_done and self._kind != "drop_download"):
            await self._send(message)
        elif self._is_done:
            return
        elif self._kind == "drop_download":
            await self._send({**message, "body": body[: len(body) // 2], "more_body": True})
            await _drop(self._scope, self._receive, is_flushed=True)
        elif self._kind == "slow_download":
            size = -(-len(body) // NUM_SLOW_PIECES)
            for start in range(0, len(body), size):
                await asyncio.sleep(self._seconds / NUM_SLOW_PIECES)
                await self._send({**message, "body": body[start : start + size], "more_body": True})
            await self._send({**message, "body": b""})
        else:
            await self._send({**message, "body": _flip_last_byte(body)})
        self._is_done = self._is_done or bool(body)


def _flip_last_byte(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 0xFF])


async def _drain(receive: Receive) -> None:
    """Read the rest of a request, so that its client is ready for the answer."""
    while (await receive()).get("more_body"):
        pass


async def _drop(scope: Scope, receive: Receive, *, is_flushed: bool = False) -> None:
    """End the connection, and wait until it has ended."""
    transport: asyncio.Transport = scope["transport"]
    if is_flushed:
        transport.close()
    else:
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_nothing(_: Message) -> None:
    """Keep an answer from its client."""
