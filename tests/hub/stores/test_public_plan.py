"""What a published store says of the machine that it was curated on: nothing, and it trains all the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it has no stubs
import pytest

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.hub.destination import Destination
from gradtx_hf.hub.stores import pull_store, push_store
from gradtx_hf.hub.stores.public_plan import public_plan
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import TRAINING, Story, story
from tests.hubs import ALICE, add_repository, folder_files


REPO = "alice/local-store"


@pytest.fixture(autouse=True)
def _alice(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    if (repository := hub.store.find("datasets", REPO)) is not None:
        hub.store.delete(repository)


def published(hub: HubServer) -> dict[str, bytes]:
    """Return what the repository holds."""
    repository = hub.store.find("datasets", REPO)
    assert repository is not None
    return {path: hub.store.blobs.read(file.sha256) for path, file in repository.at("main").files.items()}


def push_and_pull(folder: Path, **options: Any) -> UpdateStore:  # noqa: ANN401 - those of push_store
    push_store(story().store, Destination(REPO, repo_type="dataset"), **options)
    return pull_store(REPO, folder)


def ids_on_hub(hub: HubServer, made: Story) -> dict[str, str]:
    """Put both models on the Hub and return their ids with commits."""
    names = {side: f"org/story-{side}" for side in ("source", "target")}
    return {
        side: f"{name}@{add_repository(hub, name, folder_files(made.folder / side))}" for side, name in names.items()
    }


def test_no_path_of_this_machine_is_published(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pulled = push_and_pull(tmp_path / "pulled")

    files = published(hub)
    place = str(story().folder)
    assert place in (story().store / "plan.json").read_text()  # or nothing is tested
    for path, content in files.items():
        assert place.encode() not in content, path
    (tmp_path / "x.parquet").write_bytes(files["data/source-00000-of-00001.parquet"])
    table = pq.read_table(tmp_path / "x.parquet")
    assert place not in str(table.schema.metadata)
    assert place not in str(table["label"].to_pylist())
    pulled.verify()
    assert [corpus["path"] for corpus in pulled.plan["corpora"]] == [
        f"public_data/{Path(corpus['path']).name}" for corpus in story().curation["corpora"]
    ]
    assert pulled.plan["target"]["model"] == "…/target"
    assert load_adapter(pulled.folder / "target_init").base_model == "…/target"
    card = files["README.md"].decode()
    assert "(a local model)" in card
    assert "Not on the Hub, and not here: `public_data/" in card
    assert caplog.text.count("'public_data/") > 1  # said to who pushes, and to who pulls


def test_shards_and_initial_weights_are_the_same_bytes(hub: HubServer, tmp_path: Path) -> None:
    pulled = push_and_pull(tmp_path / "pulled")

    for path in [*(story().store / "shards").iterdir(), *story().store.glob("*_init/*.safetensors")]:
        assert (pulled.folder / path.relative_to(story().store)).read_bytes() == path.read_bytes()


def test_a_pulled_store_trains_with_its_data_put_into_its_folder(hub: HubServer, tmp_path: Path) -> None:
    pulled = push_and_pull(tmp_path / "pulled", base_models=ids_on_hub(hub, story()))
    arguments = {**TRAINING, "objective": "functional", "store": str(pulled.folder), "disable_tqdm": True}

    with pytest.raises(MissingFileError, match=r"public_data/.*\.jsonl"):
        train(TranslatorArguments(**arguments, output_dir=str(tmp_path / "lacking")))
    for corpus in story().curation["corpora"]:
        (pulled.folder / "public_data").mkdir(exist_ok=True)
        shutil.copy(corpus["path"], pulled.folder / "public_data")
    translator = train(TranslatorArguments(**arguments, output_dir=str(tmp_path / "translator")))

    assert translator.target_init.base_model == "org/story-target"
    assert "/tmp/" not in (tmp_path / "translator" / "training.json").read_text().replace(str(tmp_path), "")


def test_a_pulled_store_trains_without_data_by_the_papers_objective(hub: HubServer, tmp_path: Path) -> None:
    pulled = push_and_pull(tmp_path / "pulled")
    arguments = {**TRAINING, "objective": "parameter", "store": str(pulled.folder), "disable_tqdm": True}

    translator = train(TranslatorArguments(**arguments, output_dir=str(tmp_path / "translator")))

    assert translator.training is not None


def test_a_license_is_written_when_it_is_given_and_checked_before_the_push(hub: HubServer) -> None:
    destination = Destination(REPO, repo_type="dataset")

    with pytest.raises(ConfigurationError, match="got license 'My Own', expected its id on the Hub"):
        push_store(story().store, destination, license_id="My Own")
    assert hub.store.find("datasets", REPO) is None
    push_store(story().store, destination, license_id="cc-by-4.0")

    assert "\nlicense: cc-by-4.0\n" in published(hub)["README.md"].decode()


def corpus(path: str, label: str | None = None) -> dict[str, object]:
    return {"path": path, "label": label or path, "num_rows": 3, "sha256": "a" * 64}


def test_local_corpora_get_different_names_wherever_they_are_named() -> None:
    paths = ["/a/lines.jsonl", "~/lines.jsonl", "data/lines.jsonl", "org/public", "../dir"]
    corpora = [*map(corpus, paths), corpus("/b/x.txt", "dir")]
    plan = {
        "num_shadow_sets": 1,
        "corpora": corpora,
        "shadow_sets": [{str(entry["label"]): [number] for number, entry in enumerate(corpora)}],
        "pins": [{"type": "dataset", "name": "org/public", "revision": None, "commit": "c" * 40}],
        "source": {"model": "models/tiny", "revision": None},
        "target": {"model": "org/large", "revision": None},
    }

    public = public_plan({"format": "x", "plan": plan}, base_models={"target": "org/large-model@abc"})["plan"]

    assert [entry["path"] for entry in public["corpora"]] == [
        "public_data/lines.jsonl", "public_data/lines-2.jsonl", "public_data/lines-3.jsonl", "org/public",
        "public_data/dir-2", "public_data/x.txt",
    ]  # fmt: skip
    labels = ["lines.jsonl", "lines-2.jsonl", "lines-3.jsonl", "org/public", "dir-2", "dir"]
    assert [entry["label"] for entry in public["corpora"]] == labels
    assert public["shadow_sets"] == [{label: [number] for number, label in enumerate(labels)}]
    assert public["source"]["model"] == "…/tiny"
    assert public["target"] == {"model": "org/large-model", "revision": "abc"}  # not pinned, so it was a folder
    assert json.loads(json.dumps(public)) == public


def test_a_plan_of_the_hub_alone_stays_as_it_is() -> None:
    plan = {
        "corpora": [corpus("org/public")],
        "shadow_sets": [{"org/public": [0]}],
        "pins": [
            {"type": "dataset", "name": "org/public", "revision": None, "commit": "c" * 40},
            {"type": "model", "name": "org/small", "revision": None, "commit": "d" * 40},
        ],
        "source": {"model": "org/small", "revision": "d" * 40, "target_modules": [r".*\.(q_proj|v_proj)"]},
        "target": {"model": "gradtx-hf/playground-target", "revision": None},
    }

    assert public_plan({"plan": plan}, base_models={"source": "org/other"}) == {"plan": plan}
