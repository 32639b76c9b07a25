"""Clients of the tests' Hub, one for each user, with a cache of their own and no waiting between retries."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, file_download
from huggingface_hub.utils import _http

from gradtx_hf.playground.hub_server import HubServer
from tests.hubs import ALICE, BOB


NUMBERS = count()


@pytest.fixture
def alice(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=ALICE)


@pytest.fixture
def bob(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=BOB)


@pytest.fixture
def nobody(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def repo_id() -> str:
    """Return the id of a repository that no other test has."""
    return f"alice/repository-{next(NUMBERS)}"


@pytest.fixture
def repo(alice: HfApi, repo_id: str) -> str:
    """Return the id of a new public model repository of alice's."""
    alice.create_repo(repo_id)
    return repo_id


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that the client would have waited before its retries; it does not wait."""
    seconds: list[float] = []

    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=seconds.append, time=time.time))
    return seconds
