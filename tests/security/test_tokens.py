"""A token goes to the Hub, and nowhere else: not into messages, logs or the cache."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gradtx_hf.errors import GradTxError, holds_secret, safe_text
from gradtx_hf.hub import pin_revision, resolve_folder
from gradtx_hf.playground.hub_server import HubServer
from tests.hubs import ALICE, BOB, add_repository


def bytes_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() + str(path).encode() for path in folder.rglob("*") if path.is_file())


def test_a_token_is_in_no_log_and_not_in_the_cache(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_repository(hub, "org/secret", {"config.json": b"{}"}, is_private=True)
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "httpx", "httpcore", "transformers"):
        caplog.set_level(logging.DEBUG, logger=name)

    resolve_folder("org/secret", token=ALICE, cache_dir=tmp_path)
    pin_revision("org/secret", revision=None, repo_type="model", token=ALICE)
    with pytest.raises(GradTxError) as caught:
        resolve_folder("org/secret", token=BOB, cache_dir=tmp_path / "other")

    assert "config.json" in str([path.name for path in tmp_path.rglob("*")])
    for token in (ALICE, BOB):
        assert token not in caplog.text
        assert token not in str(caught.value)
        assert token.encode() not in bytes_under(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {ALICE}.", "token …."),
        ("https://me:secret@example.com/a", "https://…@example.com/a"),
        ("https://ghp_secret@example.com", "https://…@example.com"),
        ("https://me:p@ss'word@example.com/a", "https://…@example.com/a"),
        ("hf_oauth_eyJhbGciOi.eyJzdWIi-x_y", "…"),
        (f"api_org_{'a' * 34}", "…"),
        ("hf_selfhosted1234", "…"),
        ("the folder 'hf_adapters'", "the folder 'hf_adapters'"),
        ("org/hf_selfhosted1234", "org/hf_selfhosted1234"),
        ("org/name@main", "org/name@main"),
        ("/data/hf_runs/adapter", "/data/hf_runs/adapter"),
        ("https://example.com/@me", "https://example.com/@me"),
    ],
)
def test_secrets_and_they_alone_are_left_out(text: str, shown: str) -> None:
    assert safe_text(text) == shown
    assert holds_secret(text) == (text != shown)
