"""W2S, Conf and VisSup: losses against numbers by hand, their limits, and trainers that learn."""

from __future__ import annotations

import math

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from gradtx_hf.baselines.confidence import ConfidenceSettings, confidence_loss, confidence_trainer
from gradtx_hf.baselines.refinement import distillation_loss, refine
from gradtx_hf.baselines.vissup import vissup_loss, vissup_trainer, vissup_weights
from gradtx_hf.baselines.w2s import fine_tune_on_weak_labels
from gradtx_hf.baselines.weak_labels import weakly_labelled
from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import (
    AdapterSFTTrainer,
    FineTuningRecipe,
    adapter_state,
    generate_completions,
    load_language_model,
    reset_adapter,
)
from gradtx_hf.playground import source_path, target_path
from tests.tiny import with_lora


RECIPE = FineTuningRecipe(num_steps=4, batch_size=4, learning_rate=5e-3, max_length=32)
PROMPTS = [f"??{letters}=" for letters in ("abcdef", "fedcba", "aabbcc", "lkjihg", "gggaaa", "cdcdcd")]


def logits_of(*rows: list[float]) -> Tensor:
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


def test_conf_by_hand() -> None:
    logits = logits_of([0.7, 0.2, 0.1], [0.4, 0.3, 0.3])  # the first token is the surer one: it alone passes
    weak = torch.tensor([1, 2])

    loss = confidence_loss(logits, weak, alpha=0.25)

    by_weak = -math.log(0.2) - math.log(0.3)
    by_hardened = -math.log(0.7) - math.log(0.3)  # its own most likely token, and the weak label
    assert float(loss) == pytest.approx(0.75 * by_weak + 0.25 * by_hardened)


@pytest.mark.parametrize("num_tokens", [1, 4, 7])
def test_conf_at_alpha_one_trusts_the_surer_half(num_tokens: int) -> None:
    logits = torch.randn(num_tokens, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own, weak = logits.argmax(dim=-1), logits.argmin(dim=-1)
    sure = logits.softmax(dim=-1).amax(dim=-1).argsort(descending=True)[: (num_tokens + 1) // 2]
    expected = weak.clone()
    expected[sure] = own[sure]

    assert torch.equal(confidence_loss(logits, weak, alpha=1.0), cross_entropy(logits, expected, reduction="sum"))


def test_conf_without_alpha_is_the_plain_loss() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weak = torch.tensor([0, 1, 2, 3, 4, 0])

    assert torch.equal(confidence_loss(logits, weak, alpha=0.0), cross_entropy(logits, weak, reduction="sum"))


def test_alpha_rises_linearly_and_then_stays() -> None:
    settings = ConfidenceSettings(max_alpha=0.5, warmup_share=0.2)

    assert [settings.alpha(step, 100) for step in (0, 5, 20, 60)] == [0.0, 0.125, 0.5, 0.5]
    assert ConfidenceSettings(max_alpha=0.5, warmup_share=0.0).alpha(0, 100) == 0.5


def test_vissup_by_hand() -> None:
    logits = logits_of([0.7, 0.2, 0.1], [0.5, 0.4, 0.1])[None]  # one example of two tokens
    weak = torch.tensor([[1, 0]])
    by_own, by_weak = -math.log(0.7) - math.log(0.5), -math.log(0.2) - math.log(0.5)

    loss = vissup_loss(logits, weak, temperature=2.0)

    own, other = (math.exp(value / 2 / 2.0) for value in (by_own, by_weak))
    beta = own / (own + other)
    assert float(loss) == pytest.approx((1 - beta) * by_weak + beta * by_own)


def test_vissup_weighs_every_example_by_itself_and_leaves_prompts_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator)
    weak = torch.randint(0, 5, (3, 4), generator=generator)
    weak[0, :2] = weak[1, 3:] = -100

    together = vissup_loss(logits, weak, temperature=1.0)

    apart = sum(vissup_loss(logits[i : i + 1], weak[i : i + 1], temperature=1.0) for i in range(3))
    cut = vissup_loss(logits[:1, 2:], weak[:1, 2:], temperature=1.0)
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(vissup_loss(logits[:1], weak[:1], temperature=1.0), cut)


def test_vissups_weight_is_a_half_for_a_high_temperature_and_none_for_a_low_one() -> None:
    own, weak = torch.tensor([0.1, 0.3]), torch.tensor([2.0, 0.3])

    torch.testing.assert_close(vissup_weights(own, weak, temperature=1e6), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(vissup_weights(own, weak, temperature=1e-3), torch.tensor([0.0, 0.5]))
    assert not vissup_weights(own.requires_grad_(), weak, temperature=1.0).requires_grad


def test_vissups_weight_has_no_gradient_of_its_own() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weak = torch.tensor([[1, 2, 3], [0, 4, 4]])
    own = logits.argmax(dim=-1)
    by_weak, by_own = (
        cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1) for labels in (weak, own)
    )
    beta = torch.sigmoid((by_own - by_weak) / 3).detach()
    (expected,) = torch.autograd.grad(((1 - beta) * by_weak + beta * by_own).sum(), logits)

    (found,) = torch.autograd.grad(vissup_loss(logits, weak, temperature=1.0), logits)

    torch.testing.assert_close(found, expected)


def test_distillation_by_hand_and_none_for_the_teacher_itself() -> None:
    student, teacher = logits_of([0.5, 0.25, 0.25]), logits_of([0.25, 0.5, 0.25])

    assert float(distillation_loss(student, teacher)) == pytest.approx(0.25 * math.log(0.5) + 0.5 * math.log(2))
    assert float(distillation_loss(student, student)) == pytest.approx(0.0)


@pytest.fixture(scope="module")
def pair() -> tuple[PeftModel, PeftModel, PreTrainedTokenizerBase]:
    """The embedded source and target with adapters of their own, and their tokenizer."""
    source, tokenizer = load_language_model(str(source_path()))
    target, _ = load_language_model(str(target_path()))
    return with_lora(source), with_lora(target, randomise_b=False), tokenizer


def trained(
    pair: tuple[PeftModel, PeftModel, PreTrainedTokenizerBase], start: dict[str, Tensor], make_trainer: object
) -> dict[str, Tensor]:
    source, target, tokenizer = pair
    reset_adapter(target, start)
    labelled = weakly_labelled(source, tokenizer, PROMPTS, max_new_tokens=4)
    fine_tune_on_weak_labels(
        target,
        labelled,
        tokenizer=tokenizer,
        recipe=RECIPE,
        seed=0,
        make_trainer=make_trainer,  # type: ignore[arg-type]
    )
    return adapter_state(target)


def test_weak_labels_are_what_the_weak_model_writes(
    pair: tuple[PeftModel, PeftModel, PreTrainedTokenizerBase],
) -> None:
    source, _, tokenizer = pair

    labelled = weakly_labelled(source, tokenizer, PROMPTS, max_new_tokens=4)

    assert labelled["prompt"] == PROMPTS
    assert labelled["completion"] == generate_completions(source, tokenizer, PROMPTS, max_new_tokens=4)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:2]]
    answered = weakly_labelled(source, tokenizer, chats, max_new_tokens=4)
    assert [message["role"] for row in answered["completion"] for message in row] == ["assistant", "assistant"]


def test_no_prompt_is_refused(pair: tuple[PeftModel, PeftModel, PreTrainedTokenizerBase]) -> None:
    with pytest.raises(DataError, match="got no prompt to label"):
        weakly_labelled(pair[0], pair[2], [], max_new_tokens=4)


def test_trainers_differ_where_their_losses_do_and_conf_without_alpha_is_w2s(
    pair: tuple[PeftModel, PeftModel, PreTrainedTokenizerBase],
) -> None:
    start = adapter_state(pair[1])

    w2s = trained(pair, start, AdapterSFTTrainer)
    plain = trained(pair, start, confidence_trainer(ConfidenceSettings(max_alpha=0.0)))
    confident = trained(pair, start, confidence_trainer(ConfidenceSettings(max_alpha=0.5)))
    vissup = trained(pair, start, vissup_trainer(1.0))

    for name, tensor in w2s.items():
        torch.testing.assert_close(plain[name], tensor)
        assert "lora_B" not in name or not torch.allclose(confident[name], tensor)
        assert "lora_B" not in name or not torch.allclose(vissup[name], tensor)


def test_refinement_keeps_the_start_and_later_steps_and_comes_nearer_to_the_teacher(
    pair: tuple[PeftModel, PeftModel, PreTrainedTokenizerBase],
) -> None:
    source, target, tokenizer = pair
    start = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in adapter_state(target).items()}
    labelled = weakly_labelled(source, tokenizer, PROMPTS, max_new_tokens=4)
    recipe = FineTuningRecipe(num_steps=30, batch_size=6, learning_rate=1e-2, schedule="constant", max_length=32)

    kept = refine(target, start, labelled, teacher=source, tokenizer=tokenizer, recipe=recipe, seed=0, steps=(0, 2, 30))

    def divergence(state: dict[str, Tensor]) -> float:
        reset_adapter(target, state)
        ids = tokenizer(PROMPTS, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits, wanted = (model(input_ids=ids).logits[:, -1] for model in (target, source))
        return float(distillation_loss(logits, wanted))

    assert list(kept) == [0, 2, 30]
    assert all(torch.equal(kept[0][name], start[name]) for name in start)
    assert divergence(kept[30]) < 0.7 * divergence(kept[0])


def test_a_refinement_of_fewer_steps_is_the_same_so_far(
    pair: tuple[PeftModel, PeftModel, PreTrainedTokenizerBase],
) -> None:
    source, target, tokenizer = pair
    start = adapter_state(target)
    labelled = weakly_labelled(source, tokenizer, PROMPTS, max_new_tokens=4)
    ends = []
    for num_steps in (3, 6):
        recipe = FineTuningRecipe(
            num_steps=num_steps, batch_size=2, learning_rate=1e-2, schedule="constant", max_length=32
        )
        kept = refine(target, start, labelled, teacher=source, tokenizer=tokenizer, recipe=recipe, seed=0, steps=(3,))
        ends.append(kept[3])

    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)


@pytest.mark.parametrize("settings", [{"max_alpha": 1.5}, {"warmup_share": -0.1}])
def test_shares_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a share in \[0, 1\]"):
        ConfidenceSettings(**settings)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigurationError, match="expected a positive number"):
        vissup_trainer(temperature)
