from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from gradtx_hf.errors import ConfigurationError, DataError, LayoutError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    FineTuningResult,
    PackedRun,
    adapter_state,
    add_adapter,
    fine_tune,
    fine_tune_pack,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.finetuning.packed_batches import row_batches
from gradtx_hf.playground import Rule, make_lines, source_path
from gradtx_hf.studies.pretrain_playground import build_tokenizer


RECIPE = FineTuningRecipe(num_steps=50, batch_size=4, learning_rate=1e-2, max_length=32)
TOKENIZER = build_tokenizer()
WIDTHS = {"attn.c_attn": (16, 48), "mlp.c_proj": (64, 16)}
SCALES = {f"transformer.h.{n}.{module}": 4.0 for n in range(2) for module in WIDTHS}


@pytest.fixture(scope="module")
def precise_model() -> GPT2LMHeadModel:
    """Return a model in float64 that casts nothing to float32 on the way, as Llama's norms would."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(TOKENIZER),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.3,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=TOKENIZER.eos_token_id,
    )
    return GPT2LMHeadModel(config).double().eval()


def make_tokens(rule: int, num_rows: int = 18) -> Dataset:
    lines = make_lines([Rule("reverse", rule)], num_rows - 2, seed=rule)
    lines += [{"prompt": "??", "completion": "abc"}] * 2  # rows of two lengths
    return tokenize_examples(Dataset.from_list(lines), TOKENIZER, max_length=32)


def make_start(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start = {}
    for module in SCALES:
        in_width, out_width = WIDTHS[module.split(".", 3)[-1]]
        for factor, shape in (("lora_A", (2, in_width)), ("lora_B", (out_width, 2))):
            start[f"{module}.{factor}"] = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return start


def make_runs(num_rows: Sequence[int] = (18, 18, 18)) -> list[PackedRun]:
    return [PackedRun(f"run {k}", make_start(k), make_tokens(k, rows), seed=10 + k) for k, rows in enumerate(num_rows)]


def pack(
    model: PreTrainedModel, runs: Sequence[PackedRun], recipe: FineTuningRecipe
) -> tuple[list[dict[str, Tensor]], list[FineTuningResult]]:
    results = fine_tune_pack(model, runs, tokenizer=TOKENIZER, recipe=recipe, scales=SCALES)
    return [result.tensors for result in results], [result.summary for result in results]


def largest_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    assert list(first) == list(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(
    ("num_rows", "changes"),
    [
        ((18, 18, 18), {}),
        ((18, 18, 18), {"gradient_accumulation_steps": 2, "weight_decay": 0.3, "warmup_steps": 5}),
        ((18, 6, 11), {"gradient_accumulation_steps": 2}),
        ((18, 18, 18), {"max_grad_norm": 0.0, "schedule": "constant"}),
    ],
    ids=["plain", "accumulated", "of different lengths", "unclipped"],
)
def test_runs_of_a_pack_are_those_of_packs_of_one(
    precise_model: GPT2LMHeadModel, num_rows: Sequence[int], changes: dict[str, object]
) -> None:
    recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
    runs = make_runs(num_rows)

    together, summaries = pack(precise_model, runs, recipe)

    for run, tensors, summary in zip(runs, together, summaries, strict=True):
        (alone,), (expected,) = pack(precise_model, [run], recipe)
        assert tensors["transformer.h.0.attn.c_attn.lora_A"].dtype == torch.float64
        assert largest_difference(tensors, run.start) > 0.1
        assert largest_difference(tensors, alone) < 1e-10
        assert summary.final_loss == pytest.approx(expected.final_loss, abs=1e-10)
        assert summary.num_steps == 50


def test_converged_runs_leave_and_the_others_go_on_as_before(precise_model: GPT2LMHeadModel) -> None:
    recipe = replace(
        RECIPE,
        until_converged=True,
        convergence_window=5,
        convergence_threshold=0.06,
        convergence_patience=2,
    )
    runs = make_runs((18, 6, 11, 18))

    together, summaries = pack(precise_model, runs, recipe)

    assert len({summary.num_steps for summary in summaries}) > 1
    for run, tensors, summary in zip(runs, together, summaries, strict=True):
        (alone,), (expected,) = pack(precise_model, [run], recipe)
        assert (summary.num_steps, summary.converged) == (expected.num_steps, expected.converged)
        assert largest_difference(tensors, alone) < 1e-10


@pytest.mark.parametrize("changes", [{}, {"batch_size": 5, "gradient_accumulation_steps": 3, "weight_decay": 0.5}])
def test_pack_of_one_is_fine_tune(changes: dict[str, object]) -> None:
    recipe = replace(RECIPE, num_steps=20, **changes)  # type: ignore[arg-type]
    base, tokenizer = load_language_model(str(source_path()))
    model = add_adapter(base, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0)
    start = adapter_state(model)
    tokens = make_tokens(3, 64)
    summary = fine_tune(model, tokens, tokenizer=tokenizer, recipe=recipe, seed=7)
    trained = adapter_state(model)
    plain, _ = load_language_model(str(source_path()))

    (result,) = fine_tune_pack(
        plain,
        [PackedRun("run", start, tokens, 7)],
        tokenizer=tokenizer,
        recipe=recipe,
        scales={name.rpartition(".")[0]: 8.0 for name in start},
    )

    assert largest_difference(trained, start) > 0.05
    assert largest_difference(trained, result.tensors) < 1e-5
    assert result.summary.final_loss == pytest.approx(summary.final_loss, abs=1e-5)
    reset_adapter(model, result.tensors)  # the same names and shapes


def test_rows_are_drawn_without_replacement_epoch_by_epoch() -> None:
    recipe = replace(RECIPE, num_steps=4, batch_size=4, gradient_accumulation_steps=2)

    steps = row_batches(11, recipe, seed=5)

    sizes = [[len(rows) for rows in batches] for batches in steps]
    assert sizes == [[4, 4], [3], [4, 4], [3]]
    assert sorted(torch.cat(steps[0] + steps[1]).tolist()) == list(range(11))
    assert not torch.equal(torch.cat(steps[0]), torch.cat(steps[2]))


def test_steps_are_shown_to_a_recorder(precise_model: GPT2LMHeadModel) -> None:
    runs = make_runs()
    seen: list[tuple[list[int], Tensor]] = []

    def record(running: Sequence[int], factors: Mapping[str, Tensor]) -> None:
        seen.append((list(running), factors["transformer.h.1.attn.c_attn.lora_B"].detach().clone()))

    results = fine_tune_pack(
        precise_model,
        runs,
        tokenizer=TOKENIZER,
        recipe=replace(RECIPE, num_steps=3),
        scales=SCALES,
        on_step=record,
    )

    assert [running for running, _ in seen] == [[0, 1, 2]] * 3
    last = torch.stack([result.tensors["transformer.h.1.attn.c_attn.lora_B"] for result in results])
    assert torch.equal(seen[-1][1], last)
    assert not torch.equal(seen[-2][1], last)


def test_dropout_draws_masks_of_their_own_and_repeats(precise_model: GPT2LMHeadModel) -> None:
    twin = make_runs()[0]
    runs = [twin, twin]
    recipe = replace(RECIPE, num_steps=5)

    first, again = (
        fine_tune_pack(precise_model, runs, tokenizer=TOKENIZER, recipe=recipe, scales=SCALES, dropout=0.2)
        for _ in range(2)
    )
    without = fine_tune_pack(precise_model, runs, tokenizer=TOKENIZER, recipe=recipe, scales=SCALES)

    assert largest_difference(first[0].tensors, again[0].tensors) == 0
    assert largest_difference(first[0].tensors, first[1].tensors) > 1e-3
    assert largest_difference(first[0].tensors, without[0].tensors) > 1e-3
    assert largest_difference(without[0].tensors, without[1].tensors) < 1e-12


def test_model_comes_back_as_it_was(precise_model: GPT2LMHeadModel) -> None:
    before = {name: p.clone() for name, p in precise_model.named_parameters()}

    pack(precise_model, make_runs(), replace(RECIPE, num_steps=2))

    assert all(torch.equal(before[name], p) for name, p in precise_model.named_parameters())
    assert all(p.requires_grad and p.grad is None for p in precise_model.parameters())
    assert not precise_model.training
    assert all(not module._forward_hooks for module in precise_model.modules())
    assert "forward" not in vars(precise_model)


def test_run_that_diverges_is_named_and_no_other(precise_model: GPT2LMHeadModel) -> None:
    runs = make_runs()
    far = {name: tensor * 1e200 for name, tensor in runs[1].start.items()}
    runs[1] = replace(runs[1], start=far)

    for max_grad_norm in (0.0, 1.0):
        with pytest.raises(ConfigurationError, match="run 1: the loss is no longer finite from step 1 on"):
            pack(precise_model, runs, replace(RECIPE, num_steps=3, max_grad_norm=max_grad_norm))


def test_runs_that_do_not_fit_are_refused(precise_model: GPT2LMHeadModel) -> None:
    first, second, _ = make_runs()
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in second.start.items()}
    raw = Dataset.from_dict({"text": ["a"]})

    with pytest.raises(DataError, match="tokenize_examples"):
        pack(precise_model, [first, replace(second, examples=raw)], RECIPE)
    with pytest.raises(LayoutError, match="start 1 of a pack has other tensors than start 0"):
        pack(precise_model, [first, replace(second, start=wide)], RECIPE)
    with pytest.raises(LayoutError, match=r"got a scale and no factors of module 'lm_head'"):
        fine_tune_pack(precise_model, [first], tokenizer=TOKENIZER, recipe=RECIPE, scales=SCALES | {"lm_head": 1.0})
