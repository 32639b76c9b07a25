"""What visitors name: repositories alone, small enough, and read as the visitor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from gradtx_hf.demo.repositories import forget_own_login, pinned_repository
from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.playground import TRANSLATOR_NAME
from gradtx_hf.playground.hub_server import HubServer
from tests.hubs import ALICE, BOB, add_repository


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine's owner be alice, whose login the app must not use."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", constants.HF_HUB_DISABLE_IMPLICIT_TOKEN)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    forget_own_login()


def test_a_repository_is_pinned_to_its_commit(hub: HubServer) -> None:
    commit = add_repository(hub, "org/adapter", {"adapter_config.json": b"{}"})

    assert pinned_repository("org/adapter", token=None, max_bytes=100) == f"org/adapter@{commit}"
    assert pinned_repository("org/adapter@main", token=None, max_bytes=100) == f"org/adapter@{commit}"
    assert pinned_repository(f"org/adapter@{commit}", token=None, max_bytes=100) == f"org/adapter@{commit}"


def test_what_is_embedded_needs_no_hub() -> None:
    assert pinned_repository(TRANSLATOR_NAME, token=None, max_bytes=0) == TRANSLATOR_NAME


@pytest.mark.parametrize("name", ["/etc", "/tmp", ".", "..", "~/.ssh", "plain", "a/b/c", "http://x/y", "", "a b/c"])
def test_a_folder_of_the_machine_is_not_read(name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a repository on the Hub"):
        pinned_repository(name, token=None, max_bytes=100)


def test_a_folder_that_is_named_like_a_repository_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    for name in ("owner/name", "owner/name@main"):
        with pytest.raises(ConfigurationError, match="expected a repository on the Hub"):
            pinned_repository(name, token=None, max_bytes=100)


def test_a_repository_that_is_too_large_is_refused_before_it_is_fetched(hub: HubServer) -> None:
    add_repository(hub, "org/large", {"model.safetensors": bytes(3 << 20), "model.bin": bytes(9 << 20)})

    with pytest.raises(ConfigurationError, match="has 3 MB to fetch, expected at most 1"):
        pinned_repository("org/large", token=None, max_bytes=1 << 20)


def test_a_private_repository_is_read_by_whoever_may_and_not_by_the_machines_owner(hub: HubServer) -> None:
    commit = add_repository(hub, "org/secret", {"adapter_config.json": b"{}"}, is_private=True)
    assert os.environ["HF_TOKEN"] == ALICE

    assert pinned_repository("org/secret", token=ALICE, max_bytes=100) == f"org/secret@{commit}"
    for token in (None, BOB):
        for name in ("org/secret", f"org/secret@{commit}"):
            with pytest.raises(MissingFileError, match="no repository 'org/secret' that you may read"):
                pinned_repository(name, token=token, max_bytes=100)


def test_a_token_that_can_be_none_is_refused_and_not_repeated(hub: HubServer) -> None:
    add_repository(hub, "org/adapter", {"adapter_config.json": b"{}"})

    with pytest.raises(ConfigurationError) as raised:
        pinned_repository("org/adapter", token="hf_secret\nX: y", max_bytes=100)

    assert "hf_secret" not in str(raised.value)
