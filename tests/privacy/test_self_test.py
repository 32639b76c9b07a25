"""The self-test passes the package's trainer, and finds what is wrong with others; which live here alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import adapter_state, dp
from gradtx_hf.finetuning.dp import DPSFTTrainer
from gradtx_hf.finetuning.privacy import ClippingMode
from gradtx_hf.privacy.self_test import gradient_self_test
from tests.finetuning.private import FAMILIES, TOKENIZER, make_model, make_rows


class MeanClippedOnce(DPSFTTrainer):
    """Clips the mean gradient to C, instead of every row's; the noise on the mean stays sigma C / B."""

    def clipped_sums(self, model: torch.nn.Module, chunks: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], Tensor]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        mean, losses = [torch.zeros_like(p) for p in parameters], torch.zeros(0)
        for chunk in chunks:
            logits = model(input_ids=chunk["input_ids"], attention_mask=chunk["attention_mask"]).logits
            token_losses = cross_entropy(logits[:, :-1].transpose(1, 2), chunk["labels"][:, 1:], reduction="none")
            row_losses = token_losses.sum(1) / (chunk["labels"][:, 1:] != -100).sum(1)
            losses = torch.cat([losses, row_losses.detach()])
            for total, part in zip(mean, torch.autograd.grad(row_losses.sum(), parameters), strict=True):
                total += part / self.expected_batch_size
        norm = torch.cat([total.flatten() for total in mean]).norm()
        share = min(self.max_grad_norm / float(norm), 1.0) if float(norm) else 1.0
        return [total * share * self.expected_batch_size for total in mean], losses


class HalfTheNoise(DPSFTTrainer):
    """Adds noise of sigma C / 2, as one would who divides by the wrong batch."""

    def training_step(self, *args: object, **kwargs: object) -> Tensor:
        told = self.steps
        self.steps = dp.NoisySteps(told.noise_multiplier / 2, told.sample_rate, told.num_steps)
        try:
            return super().training_step(*args, **kwargs)  # type: ignore[arg-type]
        finally:
            self.steps = told


@pytest.mark.parametrize(("family", "clipping"), [*((name, "per_sample") for name in FAMILIES), ("llama", "ghost")])
def test_our_trainer_passes_and_the_adapter_is_left_as_it_was(family: str, clipping: ClippingMode) -> None:
    model = make_model(family)
    before = adapter_state(model)

    found = gradient_self_test(model, make_rows(12), tokenizer=TOKENIZER, clipping=clipping)

    assert found.findings == ()
    assert found.passed
    assert found.num_rows == 8
    assert found.sum_error < 1e-5
    assert 0.99 < found.sensitivity <= 1 + 1e-5  # half of the rows are clipped, and change it by C
    assert len(found.noise_shares) == 4
    assert all(abs(share - 1) < found.noise_tolerance < 0.3 for share in found.noise_shares)
    assert found.noise_correlation < 0.4
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(model).items())


def test_a_mean_gradient_that_is_clipped_once_is_found() -> None:
    found = gradient_self_test(make_model(), make_rows(8), tokenizer=TOKENIZER, trainer_class=MeanClippedOnce)

    assert not found.passed
    assert found.sensitivity > 1.1
    assert len(found.findings) == 2
    assert "rows are not clipped each to C" in found.findings[0]
    assert "one row changes the sum by" in found.findings[1]


def test_noise_that_is_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp, "private_normal", lambda shape: torch.zeros(*shape, dtype=torch.float64))

    found = gradient_self_test(make_model(), make_rows(8), tokenizer=TOKENIZER)

    assert found.findings == ("the noise of a step is 0 sigma C, expected 1: the noise is off.",)


def test_half_the_noise_is_found() -> None:
    found = gradient_self_test(make_model(), make_rows(8), tokenizer=TOKENIZER, trainer_class=HalfTheNoise)

    (finding,) = found.findings
    assert finding.startswith("the noise of a step is 0.")
    assert finding.endswith("it is not the noise that is accounted for.")


@pytest.mark.parametrize("is_seeded_by_step", [True, False])
def test_noise_of_a_known_seed_is_found(monkeypatch: pytest.MonkeyPatch, *, is_seeded_by_step: bool) -> None:
    def seeded(shape: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(0) if is_seeded_by_step else None  # else torch's, of the run's seed
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)

    monkeypatch.setattr(dp, "private_normal", seeded)

    found = gradient_self_test(make_model(), make_rows(8), tokenizer=TOKENIZER)

    assert found.noise_correlation == pytest.approx(1, abs=0.3)
    assert found.findings[-1].startswith("the noise of one step is met again in another (correlation ")


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(DataError, match="got 3 rows for the self-test, expected at least 4"):
        gradient_self_test(make_model(), make_rows(3), tokenizer=TOKENIZER)
    with pytest.raises(ConfigurationError, match="without dropout"):
        gradient_self_test(make_model(lora_dropout=0.1), make_rows(8), tokenizer=TOKENIZER)
    with pytest.raises(ConfigurationError, match="in float32"):
        gradient_self_test(make_model().to(torch.bfloat16), make_rows(8), tokenizer=TOKENIZER)
