"""Full-weight updates: placed in a stack, added to a model, kept as a file, and written as LoRA for stock PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from gradtx_hf.errors import AdapterError, ConfigurationError, LayoutError, MissingFileError
from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.lora.full_weights import added_weights, as_adapter, load_weights, save_weights, weight_start
from gradtx_hf.lora.stacked import IGNORED, AdapterStack
from tests.lora.architectures import ARCHITECTURES, Architecture, logits_of


LINEAR = pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt"])
K, R, T = 3, 2, 6


def random_updates(architecture: Architecture, *, std: float = 0.1) -> dict[str, Tensor]:
    """Return K updates of all projections, stacked, in float64."""
    start = weight_start(architecture.make(), architecture.projections)
    generator = torch.Generator().manual_seed(0)
    return {
        name: (std * torch.randn(K, *zeros.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for name, zeros in start.tensors.items()
    }


def one_of(updates: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    return {name: update[k].detach() for name, update in updates.items()}


@LINEAR
def test_losses_and_gradients_in_a_stack_are_those_of_changed_weights(name: str) -> None:
    architecture = ARCHITECTURES[name]
    updates = random_updates(architecture)
    model = architecture.make().double()
    ids = torch.randint(3, 48, (K * R, T), generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.arange(T) >= 2, ids, IGNORED)

    stack = AdapterStack(model, scales={update.removesuffix(".weight"): 1.0 for update in updates})
    losses = stack.losses(updates, input_ids=ids, labels=labels)
    losses.sum().backward()

    for k in range(K):
        rows = slice(k * R, (k + 1) * R)
        with added_weights(model, one_of(updates, k)):
            model.zero_grad()
            alone = model(input_ids=ids[rows], labels=labels[rows]).loss
            alone.backward()
            torch.testing.assert_close(losses[k].double(), alone.double(), atol=1e-6, rtol=1e-6)
            for weight, update in updates.items():
                torch.testing.assert_close(update.grad[k], model.get_parameter(weight).grad, atol=1e-6, rtol=1e-4)


@LINEAR
def test_a_lora_of_full_rank_is_the_update_and_one_of_less_is_the_nearest(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    update = {key: delta.float() for key, delta in one_of(random_updates(architecture), 0).items()}
    with added_weights(architecture.make(), update) as model:
        expected = logits_of(model)
    distances = {}
    for rank in (24, 4):
        found = as_adapter(update, architecture.make(), rank=rank)
        save_adapter(tmp_path / str(rank), config=found.config, tensors=found.tensors)
        loaded = PeftModel.from_pretrained(architecture.make(), tmp_path / str(rank)).eval()
        distances[rank] = float((logits_of(loaded) - expected).abs().max())
        kept = load_adapter(tmp_path / str(rank)).tensors
        products = [
            kept[f"{key[:-7]}.lora_B"] @ kept[f"{key[:-7]}.lora_A"] - (delta.T if architecture.has_conv1d else delta)
            for key, delta in update.items()
        ]
        lost = torch.cat([product.flatten() for product in products]).norm()
        whole = torch.cat([delta.flatten() for delta in update.values()]).norm()
        assert found.error == pytest.approx(float(lost / whole), abs=1e-5)
    assert distances[24] < 1e-4 < 1e-2 < distances[4]


def test_an_update_of_low_rank_is_kept_whole_by_a_lora_of_that_rank() -> None:
    architecture = ARCHITECTURES["llama"]
    start = weight_start(architecture.make(), ["q_proj"])
    update = {
        name: torch.randn(zeros.shape[0], 2) @ torch.randn(2, zeros.shape[1]) for name, zeros in start.tensors.items()
    }

    assert as_adapter(update, architecture.make(), rank=2).error < 1e-6
    assert as_adapter(update, architecture.make(), rank=1).error > 0.1
    assert as_adapter(start.tensors, architecture.make(), rank=1).error == 0.0


def test_weights_are_the_same_bits_after_an_update_was_added() -> None:
    architecture = ARCHITECTURES["gpt2"]
    model, update = architecture.make(), one_of(random_updates(architecture), 1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    with added_weights(model, update):
        assert not any(torch.equal(model.get_parameter(name), before[name]) for name in update)

    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.weight", "nowhere.weight"])
def test_an_update_of_another_model_is_refused_and_changes_nothing(name: str) -> None:
    model = ARCHITECTURES["llama"].make()
    first = "model.layers.0.self_attn.v_proj.weight"
    before = model.get_parameter(first).clone()

    with (
        pytest.raises(LayoutError, match=name),
        added_weights(model, {first: torch.ones_like(before), name: torch.zeros(3, 5)}),
    ):
        pass

    assert torch.equal(model.get_parameter(first), before)


def test_an_update_is_a_file_of_the_models_own_names(tmp_path: Path) -> None:
    update = one_of(random_updates(ARCHITECTURES["llama"]), 2)

    save_weights(tmp_path / "update.safetensors", update)

    loaded = load_weights(tmp_path / "update.safetensors")
    assert set(loaded) <= set(ARCHITECTURES["llama"].make().state_dict())
    assert all(torch.equal(loaded[name], delta) for name, delta in update.items())


def test_files_that_hold_no_update_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "factors.safetensors", {"model.layers.0.q_proj.lora_A": torch.zeros(2, 2)})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "factors.safetensors").read_bytes()[:-3])

    with pytest.raises(AdapterError, match=r"lora_A.*expected tensors named"):
        load_weights(tmp_path / "factors.safetensors")
    with pytest.raises(AdapterError, match="truncated or damaged"):
        load_weights(tmp_path / "cut.safetensors")
    with pytest.raises(MissingFileError):
        load_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("target", "why"), [("wq", "has no module 'wq'"), ("embed_tokens", "expected a linear layer")])
def test_modules_without_a_weight_of_their_own_are_refused(target: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        weight_start(ARCHITECTURES["llama"].make(), [target])
