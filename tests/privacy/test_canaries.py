from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import Dataset
from scipy.stats import binom

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PrivacySettings,
    add_adapter,
    dp,
    load_language_model,
    tokenize_examples,
)
from gradtx_hf.playground import source_path
from gradtx_hf.privacy.audited import AuditedRun, audit_gradients, audit_texts
from gradtx_hf.privacy.canaries import (
    GradientCanaries,
    GradientCanaryTrainer,
    TextCanaryTrainer,
    flip_coins,
    make_text_canaries,
)
from tests.finetuning.private import TOKENIZER, make_model, make_rows
from tests.privacy.test_self_test import MeanClippedOnce


RECIPE = FineTuningRecipe(num_steps=6, batch_size=8, learning_rate=1e-3, max_length=32)
PRIVACY = PrivacySettings(epsilon=2.0, delta=1e-5, max_grad_norm=0.1)
NUM_CANARIES = 800
MODULES = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Canaries(GradientCanaryTrainer, MeanClippedOnce):
    """Canaries in a run that clips the mean gradient once."""


def audit(**options: Any) -> AuditedRun:  # noqa: ANN401 - arguments of audit_gradients
    values: dict[str, Any] = {"recipe": RECIPE, "privacy": PRIVACY, "num_canaries": NUM_CANARIES}
    return audit_gradients(make_model(rank=8), make_rows(16), tokenizer=TOKENIZER, **values | options)


def texts(num_canaries: int) -> Dataset:
    prompts = [f"??{i:04d}=".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(num_canaries)]
    canaries = make_text_canaries(prompts, alphabet="abcdefghijkl", num_characters=6)
    return tokenize_examples(canaries, TOKENIZER, max_length=32)


@pytest.mark.slow
def test_a_sound_private_run_is_not_refuted() -> None:
    run = audit(confidence=1 - 1e-4)

    assert run.statement is not None
    assert 1.9 < run.statement.epsilon <= 2
    assert run.bound.epsilon < run.statement.epsilon
    assert not run.is_refuted
    assert (run.bound.num_canaries, run.bound.num_guesses, run.bound.delta) == (NUM_CANARIES, 160, 1e-5)


def test_a_run_without_its_noise_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp, "private_normal", lambda shape: torch.zeros(*shape, dtype=torch.float64))

    run = audit()

    assert run.is_refuted
    assert run.membership.auc > 0.9


def test_scores_are_what_was_drawn_and_noise_of_the_right_size() -> None:
    canaries = GradientCanaries(torch.arange(NUM_CANARIES) % 2 == 0)
    recipe = replace(RECIPE, num_steps=12)
    privacy = PrivacySettings(noise_multiplier=1.0, max_grad_norm=0.1)

    dp.fine_tune_private(
        make_model(rank=8),
        make_rows(16),
        tokenizer=TOKENIZER,
        recipe=recipe,
        privacy=privacy,
        trainer_class=lambda **options: GradientCanaryTrainer(canaries=canaries, **options),
    )

    units = canaries.scores / 0.1
    inside, outside = units[canaries.included], units[~canaries.included]
    assert float(outside.mean()) == pytest.approx(0, abs=5 * math.sqrt(12 / 400))
    assert float(outside.std()) == pytest.approx(math.sqrt(12), rel=0.18)  # noise of every step
    assert float(inside.mean()) == pytest.approx(12 * 0.5, abs=5 * math.sqrt(15 / 400))  # steps times sample rate
    assert float(inside.std()) == pytest.approx(math.sqrt(12 + 12 * 0.25), rel=0.18)  # and of being drawn


def test_gradient_canaries_do_not_see_wrong_clipping_which_is_what_the_self_test_is_for() -> None:
    run = audit(trainer_class=Canaries, confidence=1 - 1e-4)

    assert not run.is_refuted


def test_more_gradient_canaries_than_numbers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 100000 gradient canaries for"):
        audit(num_canaries=100_000)


def test_text_canaries_that_are_not_in_are_never_drawn() -> None:
    seen: list[int] = []

    class Watched(TextCanaryTrainer):
        def batches(self) -> Any:  # noqa: ANN401 - a sampler
            drawn = list(super().batches())
            seen.extend(row for batch in drawn for row in batch)
            assert len(super().batches()) == 6
            return drawn

    rows = make_rows(40)
    present = torch.arange(40) % 3 > 0
    dp.fine_tune_private(
        make_model(),
        rows,
        tokenizer=TOKENIZER,
        recipe=replace(RECIPE, batch_size=20),
        privacy=PrivacySettings(noise_multiplier=1.0),
        trainer_class=lambda **options: Watched(present=present, **options),
    )

    assert set(seen) <= set(present.nonzero().flatten().tolist())
    low, high = binom.interval(1 - 1e-6, 6 * int(present.sum()), 0.5)  # the sample rate does not depend on the coins
    assert low <= len(seen) <= high


@pytest.mark.slow
def test_a_run_without_privacy_remembers_text_canaries_and_a_private_one_does_not() -> None:
    recipe = FineTuningRecipe(num_steps=50, batch_size=24, learning_rate=1e-2, max_length=32, warmup_steps=5)

    runs = []
    for privacy, num_steps in ((None, 150), (PRIVACY, 10)):
        language_model, tokenizer = load_language_model(str(source_path()), max_length=32)
        runs.append(
            audit_texts(
                add_adapter(language_model, rank=16, alpha=32, target_modules=MODULES, seed=0),
                make_rows(4),
                texts(64),
                tokenizer=tokenizer,
                recipe=replace(recipe, num_steps=num_steps),
                privacy=privacy,
            )
        )

    plain, private = runs
    assert plain.statement is None
    assert plain.membership.auc > 0.9
    assert plain.membership.is_caught
    assert private.statement is not None
    assert private.bound.epsilon < private.statement.epsilon
    assert private.membership.auc < 0.85


def test_coins_are_fair_and_canaries_never_alike() -> None:
    coins = flip_coins(10_000)
    first, second = (make_text_canaries(["a", "b"], alphabet="xyz", num_characters=40) for _ in range(2))

    low, high = binom.interval(1 - 1e-6, 10_000, 0.5)
    assert low <= int(coins.sum()) <= high
    assert first["prompt"] == ["a", "b"]
    assert {len(text) for text in first["completion"]} == {40}
    assert set("".join(first["completion"])) == set("xyz")
    assert len({*first["completion"], *second["completion"]}) == 4
