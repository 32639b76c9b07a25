from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn.functional import cross_entropy

from gradtx_hf.errors import ConfigurationError, DataError, LayoutError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    adapter_parameters,
    adapter_state,
    add_adapter,
    fine_tune,
    has_converged,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.playground.world import Rule, make_lines
from gradtx_hf.studies.pretrain_playground import build_tokenizer
from tests.tiny import tiny_llama


RECIPE = FineTuningRecipe(num_steps=6, batch_size=4, learning_rate=1e-2, max_length=32)
TOKENIZER = build_tokenizer()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def tokens() -> Dataset:
    lines = make_lines([Rule("reverse", 3)], 32, seed=0)
    lines += [{"prompt": "??", "completion": "abc"}] * 8  # rows of two lengths
    return tokenize_examples(Dataset.from_list(lines), TOKENIZER, max_length=32)


def make_model(*, dropout: float = 0.0) -> PeftModel:
    base = tiny_llama(vocab_size=len(TOKENIZER))
    return add_adapter(base, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0, dropout=dropout)


def train(
    model: PeftModel, tokens: Dataset, recipe: FineTuningRecipe = RECIPE, *, seed: int = 0
) -> dict[str, torch.Tensor]:
    fine_tune(model, tokens, tokenizer=TOKENIZER, recipe=recipe, seed=seed)
    return adapter_state(model)


def test_same_seed_gives_the_same_bits_whatever_ran_before(tokens: Dataset) -> None:
    model = make_model(dropout=0.1)
    start = adapter_state(model)
    first = train(model, tokens)

    for seed in (1, 2):
        train(model, tokens, seed=seed)
    reset_adapter(model, start)
    again = train(model, tokens)

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["model.layers.0.self_attn.q_proj.lora_B"], start["model.layers.0.self_attn.q_proj.lora_B"]
    )


def test_steps_equal_those_of_a_plain_loop(tokens: Dataset) -> None:
    model, twin = make_model(), make_model()
    recipe = replace(RECIPE, batch_size=40, num_steps=3)

    trained = train(model, tokens, recipe)

    parameters = list(adapter_parameters(twin).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-2 * (0.1 + 0.9 * (1 - step / 3))
        losses = []
        for row in tokens:
            logits = twin(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            losses.append(cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="none"))
        loss = torch.cat(losses).sum() / sum(label != -100 for row in tokens for label in row["labels"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    expected = adapter_state(twin)
    # AdamW's first steps have unit size whatever the gradient, so float32 rounding of near-zero gradients shows.
    assert all(torch.allclose(trained[name], expected[name], atol=1e-4) for name in expected)


def test_accumulated_batches_equal_one_large_batch(tokens: Dataset) -> None:
    large = train(make_model(), tokens, replace(RECIPE, batch_size=8))
    small = train(make_model(), tokens, replace(RECIPE, batch_size=2, gradient_accumulation_steps=4))

    assert all(torch.allclose(large[name], small[name], atol=1e-4) for name in large)


def test_model_comes_back_as_it_was_but_for_the_adapter(tokens: Dataset) -> None:
    model = make_model()
    base = model.get_base_model()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}

    train(model, tokens)

    assert "forward" not in vars(base)
    assert not model.training
    assert model.config.use_cache
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)


def test_many_runs_do_not_nest_forwards(tokens: Dataset) -> None:
    model = make_model()
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(200)
        for seed in range(40):
            train(model, tokens, replace(RECIPE, num_steps=1), seed=seed)
    finally:
        sys.setrecursionlimit(limit)


def test_result_tells_steps_and_loss_and_nothing_is_written_or_printed(
    tokens: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    result = fine_tune(make_model(), tokens, tokenizer=TOKENIZER, recipe=RECIPE, seed=0)

    assert result.num_steps == 6
    assert 0 < result.final_loss < 10
    assert not result.converged
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_run_that_no_longer_improves_stops_early(tokens: Dataset) -> None:
    recipe = replace(
        RECIPE, num_steps=400, learning_rate=1e-9, batch_size=40, until_converged=True, convergence_window=5
    )

    result = fine_tune(make_model(), tokens, tokenizer=TOKENIZER, recipe=recipe, seed=0)

    assert result.converged
    assert result.num_steps == 20  # a first window and three that fall short


def test_convergence_needs_patience_in_a_row() -> None:
    def converged(means: list[float]) -> bool:
        return has_converged([m for m in means for _ in range(4)], window=4, threshold=0.01, patience=3)

    assert converged([1.0, 1.0, 0.995, 1.2])
    assert not converged([1.0, 1.0, 0.98, 0.98])
    assert not converged([1.0, 1.0, 1.0])


def test_run_that_diverges_is_refused_with_its_step(tokens: Dataset) -> None:
    with pytest.raises(ConfigurationError, match="no longer finite from step"):
        train(make_model(), tokens, replace(RECIPE, learning_rate=1e30, max_grad_norm=0.0))


def test_frozen_model_and_raw_data_are_refused(tokens: Dataset) -> None:
    model = make_model()
    model.requires_grad_(False)  # type: ignore[no-untyped-call]

    with pytest.raises(ConfigurationError, match="is_trainable=True"):
        train(model, tokens)
    with pytest.raises(DataError, match="tokenize_examples"):
        train(make_model(), Dataset.from_dict({"text": ["a"]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"schedule": "cosine"}, "'linear' or 'constant'"),
        ({"warmup_steps": 6}, "less than num_steps=6"),
    ],
)
def test_recipe_that_cannot_be_used_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FineTuningRecipe.from_dict(RECIPE.to_dict() | values)


def test_reset_sets_values_in_place_and_refuses_others() -> None:
    model = make_model()
    parameters = adapter_parameters(model)
    state = {name: torch.randn_like(tensor) for name, tensor in adapter_state(model).items()}

    reset_adapter(model, state)

    assert all(adapter_parameters(model)[name] is parameters[name] for name in parameters)
    assert all(torch.equal(tensor, state[name]) for name, tensor in adapter_state(model).items())
    with pytest.raises(LayoutError, match="missing tensor"):
        reset_adapter(model, dict(list(state.items())[1:]))
    with pytest.raises(LayoutError, match="unexpected tensor 'x'"):
        reset_adapter(model, state | {"x": torch.zeros(1)})
