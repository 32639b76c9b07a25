"""A study's whole way at toy size: tiny random models, made-up rows, a few steps. Its numbers mean nothing. Ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.output import new_folder, write_text
from gradtx_hf.playground import source_path
from gradtx_hf.studies.paper.definition import PaperCell, merged
from gradtx_hf.tasks import get_task


NUM_ROWS = 100
"""Rows of each made-up data set: every percent of a slice is one."""
NUM_SAMPLES = 2
NUM_MEMBERS = 2
RECIPE = {
    "num_steps": 2,
    "warmup_steps": 0,
    "until_converged": False,
    "batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_length": 24,
}
CURATE = {
    "num_shadow_sets": 3,
    "samples_per_set": 4,
    "num_snapshots": 2,
    "pack": 4,
    "target_pack": 4,
    "num_workers": 1,
    "source_recipe": RECIPE,
    "target_recipe": RECIPE,
}
TRANSFORMER = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
TRAIN = {"max_steps": 2, "per_device_train_batch_size": 4, "bf16": False, "use_cpu": True, "report_to": []}
EVALUATE = {
    "max_new_tokens": 2,
    "max_length": 24,
    "num_workers": 1,
}
PRETRAIN = {
    "source": {"hidden_size": 16, "num_layers": 1, "num_steps": 2},
    "target": {"hidden_size": 32, "num_layers": 2, "num_steps": 2},
    "vocab_size": 260,
    "piece_length": 16,
}
SHAPES = {"source": (16, 2), "target": (32, 3)}
"""Width and layers of each side's tiny model."""


def tiny_cell(cell: PaperCell, folder: Path) -> PaperCell:
    """Return a cell with everything small, its models and data written into a folder.

    Raises:
        ConfigurationError: If a task has no made-up row.
    """
    curate = merged(_tiny_data(cell.curate, folder), CURATE)
    for side in SHAPES if not cell.pretrain else ():
        curate[f"{side}_model"] = str(_tiny_model(folder, side))
    train = merged({name: value for name, value in cell.train.items() if name != "from_t5"}, {**TRANSFORMER, **TRAIN})
    return replace(
        cell,
        curate=curate,
        train=train,
        evaluate=merged(_tiny_data(cell.evaluate, folder), {**EVALUATE, **_tiny_recipes(cell)}),
        pretrain=merged(cell.pretrain, PRETRAIN) if cell.pretrain else {},
    )


def _tiny_recipes(cell: PaperCell) -> dict[str, Any]:
    """Return changes of the evaluation's recipes, those that the cell names; others are the shadow sets'."""
    own, methods = (
        {name: RECIPE for name, value in values.items() if name.endswith("_recipe") and value is not None}
        for values in (cell.evaluate, cell.evaluate.get("method_settings", {}))
    )
    return {**own, "method_settings": {**methods, "num_public_prompts": NUM_SAMPLES}}


def _tiny_model(folder: Path, side: str) -> Path:
    """Write a random model with a tokenizer that has a chat template, if it is not there."""
    path = folder / "models" / side
    if path.is_dir():
        return path
    tokenizer = load_tokenizer(str(source_path()))
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    width, num_layers = SHAPES[side]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=num_layers,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=512,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    with new_folder(path) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return path


def _tiny_data(value: Any, folder: Path) -> Any:  # noqa: ANN401 - any YAML value
    """Return arguments with made-up rows in place of every task's data set."""
    if isinstance(value, list):
        return [_tiny_data(entry, folder) for entry in value]
    if not isinstance(value, Mapping):
        return value
    if "members" in value or "train" in value:  # a client, whose task is a name
        changed = {name: _tiny_data(entry, folder) for name, entry in value.items()}
        if "members" in changed:
            changed["members"] = changed["members"][:NUM_MEMBERS]
        return changed | ({"test": _few(changed["test"])} if "test" in changed else {})
    if "task" not in value:
        return {name: _tiny_data(entry, folder) for name, entry in value.items()}
    few = {"num_samples": NUM_SAMPLES} if "num_samples" in value else {}
    split = re.sub(r"^\w+", "train", value.get("split", "train"))  # a file has one split
    return {**value, "path": str(_rows_of(value["task"], folder)), "split": split, **few}


def _few(test: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - one data source, or a list of them
    sources = test if isinstance(test, list) else [test]
    return [{**source, "num_samples": 1} for source in sources]


def _rows_of(task: str, folder: Path) -> Path:
    path = folder / "data" / f"{task}.jsonl"
    if not path.is_file():
        row = get_task(task).example_row
        if row is None:
            raise ConfigurationError(f"task '{task}' has no example_row, of which a dry run is made. Give it one.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row) + "\n" for _ in range(NUM_ROWS)))
    return path
