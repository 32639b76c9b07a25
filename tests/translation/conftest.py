"""One pair and three clients for all tests of translation."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator
from tests.hubs import ALICE
from tests.translation.hub_pair import HubPair, put_pair_on_hub
from tests.translation.pair import Pair, make_pair, save_client


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def translator(pair: Pair) -> PeftTranslator:
    return PeftTranslator.from_pretrained(pair.translator)


@pytest.fixture(scope="session")
def clients(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clients")
    return [save_client(pair, folder / f"client-{seed}", seed=seed) for seed in range(5)]


@pytest.fixture
def hub_pair(hub: HubServer, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> HubPair:
    """Return the pair on the Hub; alice is logged in."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    return put_pair_on_hub(hub, pair)
