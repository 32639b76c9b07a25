"""Packed runs that take DP-SGD's steps: clipping row by row, noise of the size that it says, the same when resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    add_adapter,
    fine_tune,
    fine_tune_pack,
    fine_tune_parts,
    load_language_model,
    tokenize_examples,
)
from gradtx_hf.finetuning.dp_checks import require_private_recipe
from gradtx_hf.finetuning.packed_noise import NoisyAdapters, noise_of_run
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.lora.stacked import AdapterStack
from gradtx_hf.playground import Rule, make_lines, source_path, translator_path


RECIPE = FineTuningRecipe(
    num_steps=5, batch_size=4, learning_rate=1e-2, max_length=32, max_grad_norm=0.3, row_noise=(0.0,)
)
MODEL, TOKENIZER = load_language_model(str(source_path()), max_length=32)
MODEL.requires_grad_(requires_grad=False)
START: Adapter = load_adapter(translator_path() / "source_init")


def tokens(shift: int, num_rows: int = 12) -> Dataset:
    lines = Dataset.from_list(make_lines([Rule("reverse", shift)], num_rows, seed=shift))
    return tokenize_examples(lines, TOKENIZER, max_length=32)


def runs(seeds: Sequence[int]) -> list[PackedRun]:
    return [PackedRun(f"run {seed}", START.tensors, tokens(seed % 12), seed=seed) for seed in seeds]


def trained(seeds: Sequence[int], recipe: FineTuningRecipe) -> list[dict[str, Tensor]]:
    results = fine_tune_pack(MODEL, runs(seeds), tokenizer=TOKENIZER, recipe=recipe, scales=START.scales)
    return [result.tensors for result in results]


def adapters(recipe: FineTuningRecipe, seeds: Sequence[int] = (1, 2)) -> NoisyAdapters:
    starts = [START.tensors for _ in seeds]
    return NoisyAdapters(MODEL, starts, scales=START.scales, seeds=seeds, recipe=recipe, dropout=0.0)


def batch(seeds: Sequence[int], num_rows: int) -> dict[str, Tensor]:
    rows = [tokens(seed, num_rows) for seed in seeds]
    values = {name: torch.tensor([row for part in rows for row in part[name]]) for name in ("input_ids", "labels")}
    return values | {"extents": torch.tensor([[num_rows, values["input_ids"].shape[1]]] * len(seeds))}


def gradients(module: NoisyAdapters, values: dict[str, Tensor]) -> dict[str, Tensor]:
    module(**values).sum().backward()
    return {name: factor.grad for name, factor in module.factors.items() if factor.grad is not None}


def test_each_runs_gradient_is_the_mean_of_its_rows_clipped_one_by_one() -> None:
    values = batch((1, 2), 4)

    found = gradients(adapters(RECIPE), values)

    stack = AdapterStack(MODEL, scales=START.scales)
    for run in range(2):
        expected = {name: torch.zeros_like(tensor) for name, tensor in START.tensors.items()}
        for row in range(4 * run, 4 * run + 4):
            own = {name: tensor[None].clone().requires_grad_() for name, tensor in START.tensors.items()}
            loss = stack.losses(
                own, input_ids=values["input_ids"][row : row + 1], labels=values["labels"][row : row + 1]
            )
            of_row = dict(zip(own, torch.autograd.grad(loss.sum(), list(own.values())), strict=True))
            norm = torch.stack([gradient.norm() for gradient in of_row.values()]).norm()
            for name, gradient in of_row.items():
                expected[name] += gradient[0] * min(1.0, 0.3 / float(norm)) / 4
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name][run], gradient, rtol=1e-4, atol=1e-7)


def test_without_noise_and_with_a_wide_norm_a_run_is_that_of_the_plain_pack() -> None:
    noisy = trained((3, 4), replace(RECIPE, max_grad_norm=1e6))

    plain = trained((3, 4), replace(RECIPE, row_noise=(), max_grad_norm=0.0))

    for mine, other in zip(noisy, plain, strict=True):
        for name, tensor in other.items():
            torch.testing.assert_close(mine[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_batches", [1, 4])
def test_the_noise_of_a_step_has_the_spread_of_dp_sgd(num_batches: int) -> None:
    recipe = replace(RECIPE, row_noise=(2.0,), gradient_accumulation_steps=num_batches)
    values = batch((1, 2), 4)
    clean = gradients(adapters(RECIPE), values)
    module, drawn = adapters(recipe), []
    for step in range(8):
        module.zero_grad()
        module.begin_step(step)
        total = {name: torch.zeros_like(tensor) for name, tensor in clean.items()}
        for _ in range(num_batches):
            module.zero_grad()
            for name, gradient in gradients(module, values).items():
                total[name] += gradient / num_batches
        drawn.append(torch.cat([(total[name] - clean[name]).flatten() for name in clean]))

    noise = torch.stack(drawn)  # 8 steps of 2 · 960 elements: 1 % is two standard errors

    assert float(noise.std()) == pytest.approx(2.0 * 0.3 / (4 * num_batches), rel=0.03)
    assert float(torch.corrcoef(noise[:2])[0, 1]) == pytest.approx(0.0, abs=0.1)


def test_a_runs_noise_depends_on_its_seed_and_not_on_its_pack() -> None:
    recipe = replace(RECIPE, row_noise=(0.5, 1.0))

    together, alone = trained((5, 6), recipe), trained((6,), recipe)

    for name, tensor in alone[0].items():
        torch.testing.assert_close(together[1][name], tensor, rtol=1e-4, atol=1e-6)
    assert {noise_of_run(recipe, seed) for seed in range(20)} == {0.5, 1.0}


def test_a_run_that_goes_on_keeps_its_own_noise() -> None:
    recipe = replace(RECIPE, row_noise=(1.0,))
    values, module = batch((2,), 4), adapters(recipe, seeds=(1, 2))
    module.set_factors({name: factor[1:] for name, factor in module.factors.items()}, positions=[1])
    module.begin_step(7)

    found = gradients(module, values)

    other = adapters(recipe, seeds=(2,))
    other.begin_step(7)
    for name, gradient in gradients(other, values).items():
        torch.testing.assert_close(found[name], gradient)


def test_what_does_not_go_with_noise_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"dropout=0.1 with row_noise, expected 0"):
        fine_tune_pack(MODEL, runs((1,)), tokenizer=TOKENIZER, recipe=RECIPE, scales=START.scales, dropout=0.1)
    with pytest.raises(ConfigurationError, match="max_grad_norm=0 with row_noise"):
        replace(RECIPE, max_grad_norm=0)
    with pytest.raises(ConfigurationError, match="row_noise is for shadow runs"):
        require_private_recipe(RECIPE)
    with pytest.raises(ConfigurationError, match="row_noise is for shadow runs"):
        fine_tune_parts(
            MODEL, runs((1,)), tokenizer=TOKENIZER, recipe=replace(RECIPE, num_parts=2), scales=START.scales
        )
    adapted = add_adapter(
        load_language_model(str(source_path()))[0], rank=2, alpha=16, target_modules=["q_proj"], seed=0
    )
    with pytest.raises(ConfigurationError, match="row_noise is for shadow runs"):
        fine_tune(adapted, tokens(1), tokenizer=TOKENIZER, recipe=RECIPE, seed=0)


def test_the_recipe_takes_a_list_of_numbers_and_writes_one() -> None:
    values = {"num_steps": 5, "batch_size": 4, "learning_rate": 1e-3, "row_noise": ["0.5", 1]}

    recipe = FineTuningRecipe.from_dict(values)

    assert recipe.row_noise == (0.5, 1.0)
    assert FineTuningRecipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.to_dict()["row_noise"] == [0.5, 1.0]
    for wrong in (0.5, ["much"], [True]):
        with pytest.raises(ConfigurationError, match="row_noise"):
            FineTuningRecipe.from_dict(values | {"row_noise": wrong})
    with pytest.raises(ConfigurationError, match="numbers of 0 or more"):
        FineTuningRecipe.from_dict(values | {"row_noise": [-1]})
