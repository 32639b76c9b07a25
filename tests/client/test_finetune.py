from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gradtx_hf.client import ClientArguments, fine_tune_client
from gradtx_hf.errors import ConfigurationError, MissingFileError, OutputExistsError
from gradtx_hf.finetuning import DataSource, FineTuningRecipe, add_adapter, load_language_model
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.playground.world import Rule, make_lines
from tests.curation.world import save_model, write_lines
from tests.hubs import add_repository, folder_files, set_files, set_tag


RECIPE = FineTuningRecipe(num_steps=4, batch_size=4, learning_rate=1e-2, max_length=32)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client")
    base = save_model(folder / "base", hidden_size=16, num_layers=2, seed=0)
    model, _ = load_language_model(str(base))
    adapter = add_adapter(model, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0)
    adapter.save_pretrained(str(folder / "source_init"))
    return folder / "source_init"


@pytest.fixture
def data(tmp_path: Path) -> DataSource:
    return DataSource(path=str(write_lines(tmp_path / "private.jsonl", Rule("reverse", 3), 16)))


def test_adapter_folder_holds_the_fine_tuned_adapter_and_nothing_else(
    tmp_path: Path, init: Path, data: DataSource
) -> None:
    result = fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / "mine")

    start, mine = load_adapter(init), load_adapter(tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (result.num_steps, mine.layout, mine.base_model) == (4, start.layout, start.base_model)
    assert all(float((mine.tensors[k] - start.tensors[k]).abs().max()) > 0 for k in start.tensors if "lora_B" in k)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_adapter_of_several_parts_is_one_adapter(tmp_path: Path, init: Path, data: DataSource) -> None:
    recipe = FineTuningRecipe(num_steps=4, batch_size=4, learning_rate=1e-2, max_length=32, num_parts=2)

    result = fine_tune_client(init, data, recipe=recipe, output_dir=tmp_path / "mine")

    start, mine = load_adapter(init), load_adapter(tmp_path / "mine")
    assert (result.num_steps, mine.layout, mine.base_model) == (4, start.layout, start.base_model)
    assert all(float((mine.tensors[k] - start.tensors[k]).abs().max()) > 0 for k in start.tensors if "lora_B" in k)


def test_no_file_of_the_adapter_holds_private_text_or_where_it_lies(
    tmp_path: Path, init: Path, data: DataSource
) -> None:
    fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / "mine")

    secrets = [data.path, *(row["completion"] for row in make_lines([Rule("reverse", 3)], 16, seed="private.jsonl"))]
    for path in (tmp_path / "mine").iterdir():
        assert not any(secret.encode() in path.read_bytes() for secret in secrets)


def test_one_seed_gives_one_adapter(tmp_path: Path, init: Path, data: DataSource) -> None:
    for name in ("a", "b"):
        torch.rand(3)
        fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / name, seed=5)

    first, second = (load_adapter(tmp_path / name).tensors for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["folder", "main", "tag"])
def test_a_translator_gives_its_source_init(
    tmp_path: Path, init: Path, data: DataSource, hub: HubServer, kind: str
) -> None:
    files = {f"source_init/{path.name}": path.read_bytes() for path in init.iterdir()}
    commit = add_repository(hub, "org/translator", files)
    named = {"folder": str(init.parent), "main": "org/translator", "tag": "org/translator@v1"}[kind]
    if kind == "tag":
        set_tag(hub, "org/translator", "v1", commit)
        set_files(hub, "org/translator", {"config.json": b"{}"})
    fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / "expected")

    fine_tune_client(named, data, recipe=RECIPE, output_dir=tmp_path / "mine")

    expected, mine = (load_adapter(tmp_path / name).tensors for name in ("expected", "mine"))
    assert all(torch.equal(expected[name], mine[name]) for name in expected)


def test_the_base_models_revision_is_that_of_the_init(
    tmp_path: Path, init: Path, data: DataSource, hub: HubServer
) -> None:
    base = init.parent / "base"
    commit = add_repository(hub, "org/base", folder_files(base))
    pinned = tmp_path / "source_init"
    shutil.copytree(init, pinned)
    config = json.loads((pinned / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "org/base", "revision": commit}
    (pinned / "adapter_config.json").write_text(json.dumps(config))
    set_files(hub, "org/base", {"README.md": b"nothing else is left"})

    fine_tune_client(pinned, data, recipe=RECIPE, output_dir=tmp_path / "mine")
    fine_tune_client(pinned, data, recipe=RECIPE, output_dir=tmp_path / "local", base_model=str(base))

    written, local = (load_adapter(tmp_path / name).config for name in ("mine", "local"))
    assert (written.base_model_name_or_path, written.revision) == ("org/base", config["revision"])
    assert (local.base_model_name_or_path, local.revision) == (str(base), None)


def test_folder_with_something_in_it_is_refused_and_untouched(tmp_path: Path, init: Path, data: DataSource) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")

    with pytest.raises(OutputExistsError, match="mine"):
        fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / "mine")

    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_is_missing_is_named(tmp_path: Path, init: Path, data: DataSource) -> None:
    with pytest.raises(MissingFileError, match="no_init"):
        fine_tune_client(tmp_path / "no_init", data, recipe=RECIPE, output_dir=tmp_path / "x")
    with pytest.raises(MissingFileError, match="no_model"):
        fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / "x", base_model=str(tmp_path / "no_model"))
    with pytest.raises(MissingFileError, match=r"none\.jsonl"):
        fine_tune_client(init, DataSource(path=str(tmp_path / "none.jsonl")), recipe=RECIPE, output_dir=tmp_path / "x")


def test_adapter_that_does_not_fit_the_model_is_refused(tmp_path: Path, init: Path, data: DataSource) -> None:
    other = save_model(tmp_path / "other", hidden_size=24, num_layers=2, seed=0)

    with pytest.raises(ConfigurationError, match="does not fit the model"):
        fine_tune_client(init, data, recipe=RECIPE, output_dir=tmp_path / "x", base_model=str(other))


def test_arguments_refuse_unknown_keys() -> None:
    with pytest.raises(ConfigurationError, match="unknown recipe key 'lr'"):
        ClientArguments(init="i", data={"path": "d.jsonl"}, recipe={"lr": 1}, output_dir="o")
    with pytest.raises(ConfigurationError, match="unknown data key 'columns'"):
        ClientArguments(init="i", data={"path": "d", "columns": 1}, recipe=json.loads("{}"), output_dir="o")
