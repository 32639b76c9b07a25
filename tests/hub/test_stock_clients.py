"""What is pushed is as good as any repository for ``transformers``, ``peft``, ``datasets``, ``hf`` and the Hub client.

Further calls have their tests where pushing is tested: the model's and the adapter's ``from_pretrained`` in
``tests/translation``, ``load_dataset`` in ``tests/hub/stores``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import (
    DatasetCard,
    HfApi,
    HfFileSystem,
    ModelCard,
    get_safetensors_metadata,
    hf_hub_download,
    metadata_update,
    snapshot_download,
)
from huggingface_hub.hf_api import RepoFile
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from gradtx_hf.hub import Destination
from gradtx_hf.hub.cards import with_base_model
from gradtx_hf.hub.stores import push_store
from gradtx_hf.lora import load_adapter, peft_key
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.store import UpdateStore
from tests.hubs import ALICE, add_repository, folder_files
from tests.tiny import save_tiny_adapter
from tests.training.stores import write_linear_store
from tests.translation.pair import Pair, make_pair, save_client


SMALL, LARGE = "stock/small", "stock/large"
TRANSLATOR, ADAPTER, STORE = "stock/translator", "stock/adapter", "stock/store"
TOKENS = torch.tensor([[1, 2, 3, 4]])
HF = shutil.which("hf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@dataclass(frozen=True)
class Made:
    """What is pushed, as it is on this machine: the translator's pair, a client's adapter, a store."""

    pair: Pair
    client: Path
    store: UpdateStore


@dataclass(frozen=True)
class Pushed:
    """What was pushed, and its commits by repository."""

    translator: PeftTranslator
    adapter: dict[str, torch.Tensor]
    store: UpdateStore
    commits: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    pair = make_pair(folder / "pair")
    store = write_linear_store(folder / "store", num_shadow_sets=4, num_snapshots=3)
    for name in ("source_init", "target_init"):
        save_tiny_adapter(folder / "store" / name)
    return Made(pair, save_client(pair, folder / "client", seed=0), store)


@pytest.fixture(scope="module")
def pushes() -> list[Pushed]:
    """Return where the first test leaves what it pushed for the others."""
    return []


@pytest.fixture
def pushed(hub: HubServer, made: Made, pushes: list[Pushed], monkeypatch: pytest.MonkeyPatch) -> Pushed:
    """Return what is on the Hub; alice is logged in."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    if not pushes:
        pushes.append(push_all(hub, made))
    return pushes[0]


def push_all(hub: HubServer, made: Made) -> Pushed:
    """Put both models on the Hub as they are, and push with our own functions what is made from them."""
    small = f"{SMALL}@{add_repository(hub, SMALL, folder_files(made.pair.source))}"
    large = f"{LARGE}@{add_repository(hub, LARGE, folder_files(made.pair.target))}"
    local = PeftTranslator.from_pretrained(made.pair.translator)
    translator = replace(
        local,
        source_init=with_base_model(local.source_init, small),
        target_init=with_base_model(local.target_init, large),
    )
    translated = translator.translate(with_base_model(load_adapter(made.client), small))
    commits = {
        TRANSLATOR: translator.push_to_hub(TRANSLATOR).commit,
        ADAPTER: translated.push_to_hub(ADAPTER).commit,
        STORE: push_store(made.store.folder, Destination(STORE, repo_type="dataset")).commit,
    }
    return Pushed(translator, translated.state_dict, made.store, commits)


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def hf(*arguments: str, home: Path) -> str:
    """Run ``hf`` in a process of its own, with a cache of its own, and return its standard output."""
    assert HF is not None
    environment = os.environ | {"HF_TOKEN": ALICE, "HF_HOME": str(home), "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    done = subprocess.run([HF, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transformers_load_the_translators_model(pushed: Pushed, tmp_path: Path) -> None:
    expected = pushed.translator.parts[""].state_dict()

    config = AutoConfig.from_pretrained(TRANSLATOR, cache_dir=tmp_path)
    model = AutoModel.from_pretrained(TRANSLATOR, revision=pushed.commits[TRANSLATOR], cache_dir=tmp_path)

    assert config.model_type == "grad_transformer"
    assert type(model) is GradTransformerModel
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_client_trains_from_the_translators_start_and_pushes_with_stock_peft(
    pushed: Pushed,
) -> None:
    base = AutoModelForCausalLM.from_pretrained(SMALL)
    model = PeftModel.from_pretrained(base, TRANSLATOR, subfolder="source_init", is_trainable=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    model.push_to_hub("stock/client", private=True)

    translated = PeftTranslator.from_pretrained(TRANSLATOR).translate("stock/client")

    (adapter,) = translated.report["adapters"]
    assert adapter["commit"] == HfApi().model_info("stock/client").sha
    assert 0 < adapter["start_distance"] < 0.1


def test_every_way_to_load_the_adapter_gives_the_same_logits(pushed: Pushed) -> None:
    base = AutoModelForCausalLM.from_pretrained(LARGE)
    untouched = logits_of(base)
    base.load_adapter(ADAPTER)
    expected = logits_of(base)

    named = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(LARGE), ADAPTER, adapter_name="client")
    named.load_adapter(TRANSLATOR, "start", subfolder="target_init")
    merged = AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()

    assert not torch.allclose(expected, untouched)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(ADAPTER)), expected)
    assert torch.equal(logits_of(named), expected)
    torch.testing.assert_close(logits_of(merged), expected)
    named.set_adapter("start")
    assert not torch.allclose(logits_of(named), expected)
    assert PeftConfig.from_pretrained(ADAPTER).base_model_name_or_path == LARGE


def test_snapshots_and_single_files_are_those_of_the_commit(pushed: Pushed, tmp_path: Path) -> None:
    folder = Path(snapshot_download(ADAPTER, revision=pushed.commits[ADAPTER], local_dir=tmp_path / "adapter"))
    init = hf_hub_download(TRANSLATOR, "adapter_model.safetensors", subfolder="source_init", cache_dir=tmp_path)
    cards = Path(snapshot_download(TRANSLATOR, allow_patterns="*.md", cache_dir=tmp_path))

    tensors = load_file(folder / "adapter_model.safetensors")
    assert tensors.keys() == pushed.adapter.keys()
    assert all(torch.equal(tensors[name], value) for name, value in pushed.adapter.items())
    start = pushed.translator.source_init
    assert load_file(init).keys() == {peft_key(name) for name in start.tensors}
    assert [path.name for path in cards.rglob("*.md")] == ["README.md"]


def test_the_file_system_reads_what_was_pushed(pushed: Pushed) -> None:
    files = HfFileSystem(token=ALICE)

    names = [path.removeprefix(f"{TRANSLATOR}/") for path in files.find(TRANSLATOR)]
    (parquet, *_) = files.glob(f"datasets/{STORE}/**/*.parquet")
    with files.open(f"{ADAPTER}@{pushed.commits[ADAPTER]}/adapter_config.json", "r") as file:
        config = json.load(file)
    with files.open(parquet, "rb") as file:
        table = pq.read_table(file)

    assert {"model.safetensors", "source_init/adapter_config.json", "target_init/adapter_model.safetensors"} <= set(
        names
    )
    assert config["base_model_name_or_path"] == LARGE
    assert table.num_rows > 0
    assert "tokens" in table.column_names


def test_the_api_describes_it(pushed: Pushed) -> None:
    api = HfApi()

    headers = get_safetensors_metadata(TRANSLATOR)
    by_base = [model.id for model in api.list_models(filter=[f"base_model:adapter:{LARGE}", "gradtx_hf"])]
    info = api.model_info(ADAPTER, files_metadata=True)

    assert set(headers.weight_map) == set(pushed.translator.parts[""].state_dict())
    assert {TRANSLATOR, ADAPTER} <= set(by_base)
    assert (info.sha, info.library_name, info.pipeline_tag) == (pushed.commits[ADAPTER], "peft", "text-generation")
    assert {file.rfilename for file in info.siblings or () if file.lfs} == {"adapter_model.safetensors"}
    assert api.file_exists(TRANSLATOR, "source_init/adapter_config.json")
    assert api.revision_exists(STORE, "main", repo_type="dataset")
    assert [tag for tag in api.dataset_info(STORE).tags or () if tag == "update-pairs"]


def test_tags_branches_and_trees_work_as_anywhere(pushed: Pushed) -> None:
    api, commit = HfApi(), pushed.commits[ADAPTER]

    api.create_tag(ADAPTER, tag="v1.0", revision=commit)
    api.create_branch(ADAPTER, branch="more/words", revision=commit)
    uploaded = api.upload_file(
        path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=ADAPTER, revision="more/words"
    )

    refs = api.list_repo_refs(ADAPTER)
    assert [tag.target_commit for tag in refs.tags if tag.name == "v1.0"] == [commit]
    assert [branch.target_commit for branch in refs.branches if branch.name == "more/words"] == [uploaded.oid]
    assert api.list_repo_commits(ADAPTER, revision="more/words")[1].commit_id == commit
    paths = {file.path for file in api.list_repo_tree(ADAPTER, revision="more/words")}
    assert paths - {file.path for file in api.list_repo_tree(ADAPTER, revision="v1.0")} == {"notes.txt"}
    (weights,) = api.get_paths_info(ADAPTER, ["adapter_model.safetensors"], revision="v1.0")
    assert isinstance(weights, RepoFile)
    assert weights.lfs is not None
    assert PeftConfig.from_pretrained(ADAPTER, revision="v1.0").base_model_name_or_path == LARGE


def test_cards_load_validate_and_can_be_edited_with_stock_functions(pushed: Pushed) -> None:
    for card in (ModelCard.load(TRANSLATOR), ModelCard.load(ADAPTER)):
        card.validate()
        assert card.data.library_name in ("gradtx_hf", "peft")
    DatasetCard.load(STORE).validate(repo_type="dataset")

    metadata_update(TRANSLATOR, {"license": "apache-2.0", "language": ["en"]})
    again = pushed.translator.push_to_hub(TRANSLATOR)

    data = ModelCard.load(TRANSLATOR).data
    assert not again.is_changed
    assert (data.license, data.language, data.base_model) == ("apache-2.0", ["en"], [SMALL, LARGE])


def test_datasets_loads_and_streams_the_store(pushed: Pushed, tmp_path: Path) -> None:
    whole = load_dataset(STORE, split="train", cache_dir=str(tmp_path)).with_format("numpy")
    stream = load_dataset(STORE, split="train", streaming=True, revision=pushed.commits[STORE])

    assert "target" in get_dataset_config_names(STORE)
    rows = list(stream)
    assert len(rows) == len(whole) == 4 * 3
    for row, kept in zip(rows, whole, strict=True):
        snapshot = pushed.store.snapshot("source", row["shadow_set"], row["snapshot"]).flatten().numpy()
        assert np.array_equal(np.float32(row["tokens"]), snapshot)
        assert np.array_equal(kept["tokens"], snapshot)


@pytest.mark.slow
def test_the_hf_command_downloads_and_describes_it(pushed: Pushed, tmp_path: Path) -> None:
    hf("download", TRANSLATOR, "--local-dir", str(tmp_path / "translator"), home=tmp_path)
    hf("download", STORE, "--repo-type", "dataset", "--local-dir", str(tmp_path / "store"), home=tmp_path)
    info = json.loads(hf("models", "info", ADAPTER, "--format", "json", home=tmp_path))
    listed = hf("models", "ls", "--filter", "gradtx-translator", "--format", "json", home=tmp_path)

    assert PeftTranslator.from_pretrained(tmp_path / "translator").source_init.base_model == SMALL
    files = (tmp_path / "store").rglob("*.parquet")
    assert sum(pq.read_metadata(path).num_rows for path in files) == 2 * 4 * 3
    assert (info["id"], info["private"]) == (ADAPTER, True)
    assert TRANSLATOR in listed
