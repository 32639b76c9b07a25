"""What all tests share: a fresh Hub cache, a Hub on loopback, one thread, fixed seeds, no other network."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from gradtx_hf.playground.hub_server import HubServer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _set_environment(port: int) -> None:
    """Set what the Hugging Face libraries and torch read when they are imported."""
    home = tempfile.mkdtemp(prefix="gradtx-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE"):
        os.environ.pop(name, None)
    os.environ |= {
        "HF_HOME": home,
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }


def _start_hub() -> HubServer:
    """Start the Hub that HF_ENDPOINT names in this process; importing it reads the environment, so that comes first."""
    port = _free_port()
    _set_environment(port)

    from gradtx_hf.playground.hub_server import HubServer
    from tests.hubs import ORGANIZATIONS, USERS

    return HubServer(port=port, users=USERS, organizations=ORGANIZATIONS)


HUB = _start_hub()
atexit.register(HUB.stop)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection, which accelerate asks for at the start of every training."""
    gc.freeze()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """Return the Hub that HF_ENDPOINT names in this process; its faults end with the test."""
    yield HUB
    HUB.faults.clear()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test use the global generator
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    """Refuse connections to any other machine."""
    connect = socket.socket.connect

    def connect_to_loopback(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host != "localhost" and host != "::1" and not str(host).startswith("127."):
            raise ConnectionRefusedError(f"tests reach no other machine, got {host}")
        connect(self, address)  # type: ignore[arg-type]

    socket.socket.connect = connect_to_loopback  # type: ignore[method-assign, assignment]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]
