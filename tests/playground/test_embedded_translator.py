"""The embedded translator does what it is there for, at once and wherever the package is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from gradtx_hf import PeftTranslator
from gradtx_hf.cli.main import main
from gradtx_hf.client import fine_tune_client
from gradtx_hf.finetuning import FineTuningRecipe, generate_completions
from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.playground import (
    SOURCE_NAME,
    TARGET_NAME,
    TRANSLATOR_NAME,
    local_name,
    make_lines,
    source_path,
    split_rules,
    target_path,
    translator_path,
)
from gradtx_hf.playground.recipes import source_recipe
from gradtx_hf.studies.embedded_translator import SEED, build
from gradtx_hf.studies.quickstart import QuickstartSettings


RULE = split_rules("full", seed=SEED).seen[40]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client") / "adapter"
    lines = Dataset.from_list(make_lines([RULE], 960, seed="a client of the tests"))
    fine_tune_client(TRANSLATOR_NAME, lines, recipe=FineTuningRecipe.from_dict(source_recipe()), output_dir=folder)
    return folder


def test_a_client_of_a_seen_rule_gets_an_adapter_that_knows_the_rule(client: Path, tmp_path: Path) -> None:
    translated = PeftTranslator.from_pretrained(TRANSLATOR_NAME).translate(client)
    translated.save_pretrained(tmp_path / "translated")

    base = AutoModelForCausalLM.from_pretrained(target_path())
    model = PeftModel.from_pretrained(base, tmp_path / "translated")
    lines = make_lines([RULE], 50, seed="lines that the client never saw")
    answers = generate_completions(
        model,
        AutoTokenizer.from_pretrained(target_path()),
        [line["prompt"] for line in lines],
        max_new_tokens=8,
        batch_size=50,
    )
    assert sum(answer == line["completion"] for answer, line in zip(answers, lines, strict=True)) >= 45
    assert translated.report["warnings"] == []
    assert translated.report["input_distance"] <= translated.report["input_distance_limit"]


def test_the_command_line_knows_it_by_its_name(
    client: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["translate", str(client), "--translator", TRANSLATOR_NAME, "--output-dir", str(tmp_path / "out")]
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    assert load_adapter(tmp_path / "out").base_model == TARGET_NAME


def test_an_adapter_that_is_off_the_map_is_told_so(
    client: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = load_adapter(client)
    start = load_adapter(translator_path() / "source_init").tensors
    flipped = {name: start[name] - (tensor - start[name]) for name, tensor in adapter.tensors.items()}
    save_adapter(tmp_path / "flipped", config=adapter.config, tensors=flipped)
    command = ["translate", str(tmp_path / "flipped"), "--translator", TRANSLATOR_NAME]
    assert main([*command, "--output-dir", str(tmp_path / "out")]) == 0
    assert "off the map" in capsys.readouterr().err


def test_an_adapter_trained_from_the_models_folder_is_of_the_same_base(client: Path) -> None:
    adapter = load_adapter(client)
    adapter.config.base_model_name_or_path = str(source_path())
    PeftTranslator.from_pretrained(translator_path()).translate(adapter)


def test_names_lead_to_folders_and_other_names_stay() -> None:
    assert Path(local_name(SOURCE_NAME)) == source_path()
    assert Path(local_name(TARGET_NAME)) == target_path()
    assert Path(local_name(TRANSLATOR_NAME)) == translator_path()
    assert local_name("someone/else") == "someone/else"


def test_all_that_is_embedded_is_small_plain_and_without_paths_of_a_machine() -> None:
    files = [path for path in translator_path().parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in translator_path().rglob("*.json"):
        assert "/tmp" not in path.read_text() and "/work" not in path.read_text()  # noqa: PT018
    init = json.loads((translator_path() / "source_init" / "adapter_config.json").read_text())
    assert init["base_model_name_or_path"] == SOURCE_NAME


def test_the_study_that_rebuilds_it_makes_one_of_the_same_shape(tmp_path: Path) -> None:
    recipe = {"num_steps": 2, "batch_size": 2, "learning_rate": 1e-3, "max_length": 32}
    toy = QuickstartSettings(
        num_public_rules=3,
        runs_per_rule=1,
        num_target_runs=2,
        samples_per_set=4,
        source_recipe=recipe,
        target_recipe=recipe,
        num_training_steps=2,
        num_training_processes=1,
    )
    made = PeftTranslator.from_pretrained(build(tmp_path, settings=toy, num_workers=1))
    shipped = PeftTranslator.from_pretrained(translator_path())
    for name, values in shipped.parts[""].state_dict().items():
        assert made.parts[""].state_dict()[name].shape == values.shape
    for mine, its in ((made.source_init, shipped.source_init), (made.target_init, shipped.target_init)):
        assert all(torch.equal(mine.tensors[name], tensor) for name, tensor in its.tensors.items())
