"""The last feed-forward block is computed where the loss reads it; test_stacked.py holds the losses to their twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradtx_hf.lora.last_layer import computed_at, last_feed_forward
from gradtx_hf.lora.stacked import IGNORED, AdapterStack
from tests.lora.architectures import ARCHITECTURES


K, R, T = 2, 3, 8
WITHOUT = {"opt", "bloom"}  # OPT has no such module, BLOOM's also adds the residual


def stack_and_factors(model: nn.Module) -> tuple[AdapterStack, dict[str, Tensor]]:
    """Return a stack on the first layer's values, where both layers' gradients arrive."""
    path = "model.layers.0.self_attn.v_proj"
    generator = torch.Generator().manual_seed(0)
    module = model.get_submodule(path)
    assert isinstance(module, nn.Linear)
    factors = {
        f"{path}.lora_A": torch.randn(K, 2, module.in_features, generator=generator, requires_grad=True),
        f"{path}.lora_B": torch.randn(K, module.out_features, 2, generator=generator, requires_grad=True),
    }
    return AdapterStack(model, scales={path: 0.5}), factors


def rows(*, first: int) -> dict[str, Tensor]:
    ids = torch.randint(3, 48, (K * R, T), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": torch.where(torch.arange(T) >= first, ids, IGNORED)}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_block_is_found_in_the_last_layer(name: str) -> None:
    model = ARCHITECTURES[name].make()
    block = last_feed_forward(model)
    if name in WITHOUT:
        assert block is None
    else:
        last = max(path for path, module in model.named_modules() if path.endswith(".mlp"))
        assert block is model.get_submodule(last)


def test_blocks_with_parameters_of_their_own_or_parts_to_choose_from_are_left_alone() -> None:
    model = ARCHITECTURES["llama"].make()
    last = model.model.layers[-1]
    last.mlp.register_parameter("gate", nn.Parameter(torch.zeros(1)))
    assert last_feed_forward(model) is None
    del last.mlp.gate
    block = last_feed_forward(model)
    assert block is not None
    block.add_module("experts", nn.ModuleList([nn.Linear(2, 2)]))
    assert last_feed_forward(model) is None
    assert last_feed_forward(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(("first", "num_positions"), [(5, 3), (1, T)])
def test_rows_with_few_labels_are_computed_at_these_alone(first: int, num_positions: int) -> None:
    model = ARCHITECTURES["llama"].make()
    stack, factors = stack_and_factors(model)
    seen: list[tuple[int, ...]] = []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[:2])))
    stack.losses(factors, **rows(first=first))
    assert seen == [(K * R, T), (K * R, num_positions)]
    seen.clear()
    model(input_ids=rows(first=first)["input_ids"])
    assert seen == [(K * R, T)] * 2, "what a stack has placed is gone after its pass"


def test_recomputed_activations_give_the_same_gradients() -> None:
    stack, factors = stack_and_factors(ARCHITECTURES["llama"].make())
    few, others = rows(first=5), rows(first=3)
    plain = torch.autograd.grad(stack.losses(factors, **few).sum(), list(factors.values()))
    stack.recompute_activations()
    losses = stack.losses(factors, **few)
    stack.losses(factors, **others)  # other positions, before the backward pass of the first
    recomputed = torch.autograd.grad(losses.sum(), list(factors.values()))
    torch.testing.assert_close(recomputed, plain)


def test_elsewhere_the_block_gives_zero() -> None:
    block = nn.Linear(3, 3)
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    whole = block(x)
    with computed_at(block, torch.tensor([1, 3])):
        some = block(x)
    torch.testing.assert_close(some[:, [1, 3]], whole[:, [1, 3]])
    assert not some[:, [0, 2]].any()
    assert torch.equal(block(x), whole)
