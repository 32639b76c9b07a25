from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    adapter_state,
    add_adapter,
    fine_tune,
    fine_tune_parts,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.lora import Adapter
from gradtx_hf.playground.world import Rule, make_lines
from tests.curation.world import save_model


RECIPE = FineTuningRecipe(num_steps=6, batch_size=4, learning_rate=1e-2, max_length=32, num_parts=3)
ADAPTER = {"rank": 2, "alpha": 16, "target_modules": ["q_proj", "v_proj"], "seed": 0}


def lines(num_lines: int) -> Dataset:
    return Dataset.from_list(make_lines([Rule("reverse", 3)], num_lines, seed="parts"))


def test_each_adapter_is_the_mean_of_one_run_on_each_part(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", hidden_size=16, num_layers=2, seed=0)
    bare, tokenizer = load_language_model(str(base))
    model = add_adapter(load_language_model(str(base))[0], **ADAPTER)  # type: ignore[arg-type]
    start = Adapter("start", model.peft_config["default"], adapter_state(model))
    tokens = tokenize_examples(lines(24), tokenizer, max_length=32)

    clients = [
        PackedRun(f"client {seed}", start.tensors, rows, seed)
        for seed, rows in ((7, tokens), (3, tokens.select(range(9))))
    ]
    results = fine_tune_parts(bare, clients, tokenizer=tokenizer, recipe=RECIPE, scales=start.scales)

    for client, result in zip(clients, results, strict=True):
        alone = []
        for part in range(3):
            reset_adapter(model, start.tensors)
            fine_tune(
                model,
                client.examples.select(range(part, len(client.examples), 3)),
                tokenizer=tokenizer,
                recipe=replace(RECIPE, num_parts=1),
                seed=client.seed + part,
            )
            alone.append(adapter_state(model))
        for name, tensor in result.tensors.items():
            torch.testing.assert_close(tensor, torch.stack([state[name] for state in alone]).mean(dim=0))
        assert result.summary.num_steps == 6
    assert not any(parameter.grad is not None for parameter in bare.parameters())


def test_fewer_rows_than_parts_are_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", hidden_size=16, num_layers=2, seed=0)
    bare, tokenizer = load_language_model(str(base))
    model = add_adapter(load_language_model(str(base))[0], **ADAPTER)  # type: ignore[arg-type]
    start = Adapter("start", model.peft_config["default"], adapter_state(model))
    tokens = tokenize_examples(lines(2), tokenizer, max_length=32)

    with pytest.raises(DataError, match=r"got 2 rows for num_parts=3, expected at least one for each part\."):
        fine_tune_parts(
            bare,
            [PackedRun("the run", start.tensors, tokens, 7)],
            tokenizer=tokenizer,
            recipe=RECIPE,
            scales=start.scales,
        )


def test_one_run_takes_no_parts(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", hidden_size=16, num_layers=2, seed=0)
    model, tokenizer = load_language_model(str(base))
    adapted = add_adapter(model, **ADAPTER)  # type: ignore[arg-type]
    tokens = tokenize_examples(lines(4), tokenizer, max_length=32)

    with pytest.raises(ConfigurationError, match="got num_parts=3 for one run, expected 1"):
        fine_tune(adapted, tokens, tokenizer=tokenizer, recipe=RECIPE, seed=7)
