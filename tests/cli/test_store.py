"""``gradtx store``: from a folder to the Hub and back, and what each command prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.updates.store import UpdateStore
from tests.cli.conftest import Finished
from tests.cli.story import story
from tests.hubs import ALICE


Run = Callable[..., Finished]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A curated store of one's own."""
    shutil.copytree(story().store, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)


def test_a_store_goes_to_the_hub_and_comes_back(
    gradtx: Run, store: Path, hub: HubServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pushed = gradtx("store", "push", store, "alice/cli-store", "--license", "apache-2.0")
    pulled = gradtx("store", "pull", "alice/cli-store", "--output-dir", tmp_path / "pulled")
    verified = gradtx("store", "verify", tmp_path / "pulled")

    assert (pushed.status, pulled.status, verified.status) == (0, 0, 0)
    assert pushed.out == f"{hub.url}/datasets/alice/cli-store\n"
    assert "2 files of public data are not on the Hub" in caplog.text
    assert pushed.err.splitlines()[-1] == "next: gradtx store pull alice/cli-store --output-dir STORE"
    assert pulled.out == f"{tmp_path / 'pulled'}\n"
    assert verified.out == f"{tmp_path / 'pulled'}: whole\n"
    assert ALICE not in pushed.err + pulled.err + caplog.text
    files = {path.name for path in (tmp_path / "pulled").rglob("*") if path.is_file()}
    assert {"plan.json", "manifest.json", "source-00000.safetensors", "adapter_model.safetensors"} <= files


def test_json_is_one_document(gradtx: Run, store: Path, hub: HubServer, tmp_path: Path) -> None:
    pushed = json.loads(gradtx("store", "push", store, "alice/json-store", "--json").out)
    pulled = json.loads(
        gradtx("store", "pull", f"alice/json-store@{pushed['commit']}", "--output-dir", tmp_path / "p", "--json").out
    )
    verified = json.loads(gradtx("store", "verify", store, "--json").out)
    described = json.loads(gradtx("store", "stat", store, "--json").out)

    assert pushed["repository"] == "alice/json-store"
    assert pulled == {"store": str(tmp_path / "p")}
    assert verified == {"store": str(store), "damage": {}}
    assert (described["complete"], described["shadow_sets"], described["target"]["runs"]) == (True, 3, 3)


def test_verify_names_every_damaged_and_missing_file(gradtx: Run, store: Path) -> None:
    opened = UpdateStore.open(store)
    damaged = opened.shard_path("source", 1)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    opened.shard_path("target", 2).unlink()

    done = gradtx("store", "verify", store)

    assert done.out.splitlines() == [
        "shards/source-00001.safetensors: damaged",
        "shards/target-00002.safetensors: missing",
    ]
    assert done.error.startswith(f"2 files of update store '{store}' are damaged or missing.")


def test_verify_of_a_store_in_the_making_goes_by_the_shards_themselves(gradtx: Run, store: Path) -> None:
    opened = UpdateStore.open(store)
    (store / "manifest.json").unlink()
    damaged = opened.shard_path("source", 1)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    done = gradtx("store", "verify", store)

    assert done.out.splitlines() == ["shards/source-00001.safetensors: damaged", "manifest.json: missing"]
    assert done.status == 1


def test_stat_is_for_reading_too(gradtx: Run, store: Path) -> None:
    UpdateStore.open(store).shard_path("target", 2).unlink()

    lines = gradtx("store", "stat", store).out.splitlines()

    assert lines[:2] == [f"store: {store} (not complete)", "shadow sets: 3"]
    assert lines[-1].startswith("target: ")
    assert "2 of 3 runs" in lines[-1]
    assert "stored as: float32" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "nowhere"), "update store 'nowhere' is not there"),
        (("stat", "."), "'.' is no update store"),
        (("push", "nowhere", "alice/x"), "update store 'nowhere' is not there"),
        (("push", "nowhere", "no id"), "got repository 'no id', expected an id such as 'owner/name'"),
        (("pull", "no id", "--output-dir", "x"), "'no id' is no folder on this machine, and no repository id"),
        (("pull", "alice/not-there", "--output-dir", "x"), "no repository 'alice/not-there' that you may read"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    gradtx: Run,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert message in gradtx("store", *arguments).error
    assert not list(tmp_path.iterdir())


def test_offline_is_one_line(
    gradtx: Run, store: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert "the network is switched off" in gradtx("store", "push", store, "alice/offline").error
    assert "the network is switched off" in gradtx("store", "pull", "alice/offline", "--output-dir", "x").error
    assert gradtx("store", "verify", store).status == 0


def test_the_help_names_the_four(gradtx: Run) -> None:
    done = gradtx("store", "--help")

    assert done.status == 0
    assert all(name in done.out for name in ("push", "pull", "verify", "stat"))
    assert gradtx("store").status == 2
