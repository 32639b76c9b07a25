"""``transformers``, ``peft`` and ``datasets`` push to the Hub and load from it."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.hubs import ALICE, BOB
from tests.tiny import tiny_llama, with_lora


TOKENS = torch.arange(8)[None]


@torch.no_grad()
def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def test_a_model_comes_back_as_it_was_pushed(alice: HfApi, repo_id: str, tmp_path: Path) -> None:
    model = tiny_llama()
    model.push_to_hub(repo_id, private=True, token=ALICE)

    loaded = AutoModelForCausalLM.from_pretrained(repo_id, token=ALICE, cache_dir=tmp_path)

    assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(OSError, match="not a valid model identifier"):
        AutoModelForCausalLM.from_pretrained(repo_id, token=BOB, cache_dir=tmp_path / "bob")


def test_an_adapter_comes_back_in_all_ways(alice: HfApi, repo_id: str, tmp_path: Path) -> None:
    base_id = f"{repo_id}-base"
    tiny_llama().push_to_hub(base_id, token=ALICE)
    adapter = with_lora(AutoModelForCausalLM.from_pretrained(base_id, cache_dir=tmp_path))
    alice.create_repo(repo_id)
    adapter.save_pretrained(tmp_path / "adapter")
    commit = alice.upload_folder(repo_id=repo_id, folder_path=tmp_path / "adapter")
    expected = logits(adapter)
    other = with_lora(AutoModelForCausalLM.from_pretrained(base_id, cache_dir=tmp_path), seed=1)
    other.push_to_hub(repo_id, token=ALICE)

    base = AutoModelForCausalLM.from_pretrained(base_id, cache_dir=tmp_path)
    old = PeftModel.from_pretrained(base, repo_id, revision=commit.oid, cache_dir=tmp_path)
    new = AutoModelForCausalLM.from_pretrained(repo_id, cache_dir=tmp_path)
    auto = AutoPeftModelForCausalLM.from_pretrained(repo_id, revision=commit.oid, cache_dir=tmp_path)

    assert torch.equal(logits(old), expected)
    assert torch.equal(logits(auto), expected)
    assert torch.equal(logits(new), logits(other))
    assert f"base_model:adapter:{base_id}" in (alice.model_info(repo_id, revision=commit.oid).tags or ())


def test_a_data_set_comes_back_whole_and_in_a_stream(alice: HfApi, repo_id: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"line {number}", "number": number} for number in range(50)]
    pushed = datasets.Dataset.from_list(rows)
    pushed.push_to_hub(repo_id, token=ALICE)
    pushed.select(range(5)).push_to_hub(repo_id, config_name="few", split="test", token=ALICE)

    whole = datasets.load_dataset(repo_id, split="train", cache_dir=str(tmp_path))
    few = datasets.load_dataset(repo_id, "few", split="test", cache_dir=str(tmp_path))
    stream = datasets.load_dataset(repo_id, split="train", streaming=True)

    assert whole.to_list() == rows
    assert few.to_list() == rows[:5]
    assert list(stream) == rows
