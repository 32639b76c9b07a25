"""The Hub on a port of this machine, served by a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground.hub_server.access import Accounts
from gradtx_hf.playground.hub_server.app import make_app
from gradtx_hf.playground.hub_server.faults import Faults
from gradtx_hf.playground.hub_server.recorder import RecordedRequest, Recorder
from gradtx_hf.playground.hub_server.requests import Hub
from gradtx_hf.playground.hub_server.store import HubStore


DEFAULT_USERS = {"hf_playground": "playground"}


class HubServer:
    """A running Hub; a context manager, at the end of which it stops.

    Args:
        data_dir: Where repositories are kept, and found again by the next server; None forgets them.
        port: Port on loopback; any free one if 0.
        users: User names by token; ``DEFAULT_USERS`` if None.
        organizations: Members by organization.
        num_kept_requests: How many of the last requests ``requests`` holds, at least 1; None: all.

    Attributes:
        url: The Hub's address, for ``HF_ENDPOINT``.
        store: The repositories.
        faults: What fails; nothing at first.
        requests: The requests so far.

    Raises:
        ConfigurationError: If the port or the folder is in use.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        organizations: Mapping[str, Collection[str]] | None = None,
        num_kept_requests: int | None = None,
    ) -> None:
        self._socket = _listen(port)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._temporary = tempfile.TemporaryDirectory(prefix="hub-") if data_dir is None else None
        self.store = HubStore(Path(self._temporary.name if self._temporary is not None else str(data_dir)))
        self.faults = Faults()
        accounts = Accounts(DEFAULT_USERS if users is None else users, organizations or {})
        recorder = Recorder(make_app(Hub(self.store, accounts, self.faults)), num_kept=num_kept_requests)
        self.requests: list[RecordedRequest] = recorder.requests
        config = uvicorn.Config(
            recorder,
            http=_CuttableProtocol,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True, name="hub")
        self._thread.start()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; a repository's files are complete at every moment, so nothing is lost."""
        self._server.should_exit = True
        self._thread.join()
        self.store.close()
        if self._temporary is not None:
            self._temporary.cleanup()


class _CuttableProtocol(H11Protocol):
    """HTTP/1.1 that shows the application its connection, so that a fault can end it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        application: Any = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            await application({**scope, "transport": transport}, receive, send)

        self.app = with_transport


def _listen(port: int) -> socket.socket:
    """Return a socket that takes connections from now on, before anything answers them."""
    # asyncio sends small answers at once only if the protocol is named; else each takes 40 ms
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(f"port {port} cannot be used: {error}. Name another one.") from error
    listener.listen(128)
    return listener
