"""Adapters that are no plain LoRA, each written by stock PEFT: converted where that is exact, else refused."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model, save_as_lora

from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.lora.adapter_config import CONVERTIBLE_TYPES
from tests.lora.architectures import logits_of
from tests.lora.refusals import change_config, refusal
from tests.tiny import save_tiny_adapter, tiny_llama


def randomise(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def save_foreign(folder: Path, config: peft.PeftConfig) -> PeftModel:
    """Write a random adapter of any PEFT type."""
    model = get_peft_model(tiny_llama(num_kv_heads=2), config)
    randomise(model)
    model.save_pretrained(folder)
    return model.eval()


TARGETS = ["q_proj", "v_proj"]
CONVERTIBLE = {
    "VERA": lambda: peft.VeraConfig(r=2, target_modules=TARGETS),
    "LOKR": lambda: peft.LoKrConfig(r=2, target_modules=TARGETS),
    "LOHA": lambda: peft.LoHaConfig(r=2, target_modules=TARGETS),
}
OTHERS = {
    "IA3": lambda: peft.IA3Config(target_modules=[*TARGETS, "down_proj"], feedforward_modules=["down_proj"]),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=TARGETS),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
}


@pytest.mark.parametrize("peft_type", CONVERTIBLE)
def test_convertible_types_are_refused_with_pefts_own_conversion(peft_type: str, tmp_path: Path) -> None:
    save_foreign(tmp_path, CONVERTIBLE[peft_type]())

    message = refusal(tmp_path)

    assert f"is of type '{peft_type}', expected 'LORA'. Convert it first" in message
    assert "peft.save_as_lora(path, model, rank)" in message


@pytest.mark.parametrize("peft_type", OTHERS)
def test_other_types_are_refused(peft_type: str, tmp_path: Path) -> None:
    save_foreign(tmp_path, OTHERS[peft_type]())

    message = refusal(tmp_path)

    assert f"is of type '{peft_type}', expected 'LORA'. PEFT has no conversion to LoRA for it" in message


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    save_tiny_adapter(tmp_path)
    change_config(tmp_path, peft_type="NEXT\nBIG THING")

    assert r"is of type 'NEXT\nBIG THING', expected 'LORA'" in refusal(tmp_path)


def test_convertible_types_are_types_that_peft_knows() -> None:
    assert {peft.PeftType(name).value for name in CONVERTIBLE_TYPES} == CONVERTIBLE_TYPES


@pytest.mark.parametrize(
    "config", [*CONVERTIBLE.values(), lambda: peft.LoraConfig(use_dora=True, target_modules=TARGETS)]
)
def test_the_conversion_that_the_message_names_makes_an_adapter_that_is_read(config: object, tmp_path: Path) -> None:
    model = save_foreign(tmp_path / "foreign", config())  # type: ignore[operator]

    save_as_lora(tmp_path / "plain", model, rank=8)

    converted = load_adapter(tmp_path / "plain")
    assert set(converted.layout.projections) == set(TARGETS)


FEATURES = {
    "DoRA. Convert it first": {"use_dora": True},
    "fully trained modules (modules_to_save)": {"modules_to_save": ["lm_head"]},
    "biases on LoRA factors": {"lora_bias": True},
    "trains biases (bias='all')": {"bias": "all"},
    "trains biases (bias='lora_only')": {"bias": "lora_only"},
    "trainable token embeddings": {"trainable_token_indices": [1, 2]},
    "LoRA on bare parameters": {"target_parameters": ["mlp.down_proj.weight"]},
    "replicated layers": {"layer_replication": [(0, 2), (1, 2)]},
    "init_lora_weights='pissa', which changes the base weights": {"init_lora_weights": "pissa"},
    "init_lora_weights='olora', which changes the base weights": {"init_lora_weights": "olora"},
}


@pytest.mark.parametrize("words", FEATURES)
def test_features_that_no_plain_lora_has_are_refused(words: str, tmp_path: Path) -> None:
    save_foreign(tmp_path, peft.LoraConfig(r=2, target_modules=TARGETS, **FEATURES[words]))

    assert words in refusal(tmp_path)


@pytest.mark.parametrize("init", [False, "gaussian", "orthogonal", "mica"])
def test_starts_that_leave_the_base_weights_alone_are_read(init: object, tmp_path: Path) -> None:
    save_foreign(tmp_path, peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=init))

    assert load_adapter(tmp_path).config.init_lora_weights is True


def test_an_unknown_field_that_is_set_is_refused(tmp_path: Path) -> None:
    save_tiny_adapter(tmp_path)
    change_config(tmp_path, use_next_big_thing=True)

    assert "sets 'use_next_big_thing' to True, which may change what its factors mean" in refusal(tmp_path)


def test_an_unknown_field_that_is_not_set_is_ignored(tmp_path: Path) -> None:
    save_tiny_adapter(tmp_path)
    change_config(tmp_path, use_next_big_thing=False, next_config=None)

    assert load_adapter(tmp_path).layout.num_blocks == 2


def save_adalora(folder: Path, *, rank_pattern: dict[str, list[bool]] | None = None) -> PeftModel:
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, target_modules=TARGETS, total_step=10, task_type="CAUSAL_LM"
    )
    model = get_peft_model(tiny_llama(num_kv_heads=2), config)
    randomise(model)
    if rank_pattern is not None:
        model.base_model.resize_modules_by_rank_pattern(rank_pattern, "default")
        model.peft_config["default"].rank_pattern = rank_pattern
    model.save_pretrained(folder)
    return model.eval()


def deltas_of(folder: Path) -> dict[str, torch.Tensor]:
    adapter = load_adapter(folder)
    return {
        module: adapter.scales[module] * adapter.tensors[f"{module}.lora_B"] @ adapter.tensors[f"{module}.lora_A"]
        for module in adapter.layout.modules
    }


def test_adalora_folds_to_pefts_own_delta(tmp_path: Path) -> None:
    model = save_adalora(tmp_path)

    deltas = deltas_of(tmp_path)

    assert len(deltas) == 4
    for module, delta in deltas.items():
        torch.testing.assert_close(delta, model.get_submodule(f"base_model.model.{module}").get_delta_weight("default"))


def test_adalora_with_cut_ranks_folds_to_pefts_own_delta(tmp_path: Path) -> None:
    kept = {0: [True, False, True, False], 1: [False] * 4}
    pattern = {f"model.layers.{n}.self_attn.q_proj.lora_E": mask for n, mask in kept.items()}
    model = save_adalora(tmp_path, rank_pattern=pattern)

    deltas = deltas_of(tmp_path)

    for module, delta in deltas.items():
        torch.testing.assert_close(delta, model.get_submodule(f"base_model.model.{module}").get_delta_weight("default"))
    tensors = load_adapter(tmp_path).tensors
    assert [tensors[f"{module}.lora_A"].shape[0] for module in sorted(deltas)] == [2, 4, 1, 4]


def test_folded_adalora_gives_stock_peft_the_same_logits(tmp_path: Path) -> None:
    model = save_adalora(tmp_path / "adalora")
    adapter = load_adapter(tmp_path / "adalora")

    save_adapter(tmp_path / "plain", config=adapter.config, tensors=adapter.tensors)

    loaded = PeftModel.from_pretrained(tiny_llama(num_kv_heads=2), tmp_path / "plain").eval()
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-5, rtol=1e-5)
