from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import ConfigurationError, HubError
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.training import TranslatorArguments, train
from tests.cli.story import TRAINING, story
from tests.conftest import HUB
from tests.curation.world import RULES
from tests.hubs import ALICE, add_repository, folder_files
from tests.translation.hub_files import card_of, repo_files


REPO = "org/trained"


@dataclass(frozen=True)
class HubStore:
    """A store curated from models and data of the Hub, and the commit of each."""

    folder: Path
    commits: dict[str, str]


@pytest.fixture(scope="module")
def hub_store(tmp_path_factory: pytest.TempPathFactory) -> HubStore:
    made = story()
    commits = {
        f"org/story-{side}": add_repository(HUB, f"org/story-{side}", folder_files(made.folder / side))
        for side in ("source", "target")
    }
    lines = Path(made.data(RULES[0])).read_bytes()
    commits["org/lines"] = add_repository(HUB, "org/lines", {"train.jsonl": lines}, kind="datasets")
    folder = tmp_path_factory.mktemp("hub-store") / "store"
    changes = {
        "source_model": "org/story-source",
        "target_model": "org/story-target",
        "corpora": [{"path": "org/lines", "label": "lines"}, {"path": made.data(RULES[1]), "label": "mine"}],
    }
    curate(CurationArguments(**made.curation | changes, output_dir=str(folder)))
    return HubStore(folder, commits)


@pytest.fixture(autouse=True)
def _alice(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    if (repository := hub.store.find("models", REPO)) is not None:
        hub.store.delete(repository)


def make_arguments(store: Path, folder: Path, **changes: object) -> TranslatorArguments:
    values = {**TRAINING, "store": str(store), "output_dir": str(folder), "push_to_hub": True, "hub_model_id": REPO}
    return TranslatorArguments(**{**values, **changes})  # type: ignore[arg-type]


def test_a_finished_training_is_published_with_the_commit_of_all_that_went_into_it(
    hub_store: HubStore, tmp_path: Path
) -> None:
    train(make_arguments(hub_store.folder, tmp_path / "translator"))

    files = repo_files(REPO)
    assert not [name for name in files if "checkpoint" in name or name.endswith((".bin", ".pt", ".pth"))]
    assert len(HfApi().list_repo_commits(REPO)) == 2
    assert HfApi().model_info(REPO).private
    for side in ("source", "target"):
        config = json.loads(files[f"{side}_init/adapter_config.json"])
        assert config["revision"] == hub_store.commits[f"org/story-{side}"]
    training = json.loads(files["training.json"])
    lines, mine = training["store"]["data"]
    assert (lines["path"], lines["revision"]) == ("org/lines", hub_store.commits["org/lines"])
    assert (mine["path"], mine["is_local"]) == (Path(story().data(RULES[1])).name, True)
    metadata, body = card_of(REPO)
    assert metadata["datasets"] == ["org/lines"]
    assert f"Data set: `org/lines` at commit `{hub_store.commits['org/lines']}`" in body
    assert "| mine | local files |" in body
    assert not any(str(story().folder).encode() in content or b"hf_" in content for content in _texts(files))


def test_what_is_published_is_the_folder(hub_store: HubStore, tmp_path: Path) -> None:
    train(make_arguments(hub_store.folder, tmp_path / "translator", hub_revision="next"))

    files = repo_files(REPO, revision="next")
    assert files["model.safetensors"] == (tmp_path / "translator" / "model.safetensors").read_bytes()


def test_a_training_that_could_not_be_published_is_refused_before_it_begins(
    hub: HubServer, hub_store: HubStore, tmp_path: Path
) -> None:
    add_repository(hub, REPO, {"model.safetensors": b"1"}, is_private=True)
    refused = [
        (hub_store.folder, {}, HubError, "not to write over"),
        (hub_store.folder, {"hub_model_id": None}, ConfigurationError, "without hub_model_id"),
        (hub_store.folder, {"hub_model_id": "no-owner"}, ConfigurationError, "owner/name"),
        (hub_store.folder, {"hub_token": "hf_unknown"}, HubError, "token"),
        (story().store, {}, ConfigurationError, "gradtx push FOLDER REPO --source-model ID"),
    ]

    for store, changes, error, saying in refused:
        with pytest.raises(error, match=saying):
            train(make_arguments(store, tmp_path / "translator", **changes))

    assert not list(tmp_path.iterdir())


def test_a_push_that_fails_at_the_end_leaves_the_translator_and_says_how_to_push_it(
    hub: HubServer, hub_store: HubStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.faults.add("503", path="/api/models/*/commit/*")

    with pytest.raises(HubError, match=f"gradtx push {tmp_path / 'translator'} {REPO}"):
        train(make_arguments(hub_store.folder, tmp_path / "translator"))

    assert (tmp_path / "translator" / "model.safetensors").is_file()


def _texts(files: dict[str, bytes]) -> list[bytes]:
    return [content.replace(b"gradtx_hf", b"") for name, content in files.items() if not name.endswith(".safetensors")]
