"""VisSup: weak labels, mixed with the strong model's own predictions by how well each fits, example by example.

For every example, (1 - β) · CE(f, weak) + β · CE(f, f̂), with β = e^{CE(f, f̂)/T} / (e^{CE(f, f̂)/T} + e^{CE(f, f̂_w)/T}),
detached. f̂ is the strong model's own most likely token, f̂_w the weak model's hard label, which for generated text is
the weak label itself. In β the cross entropies are means over the example's tokens.

Axes: B examples, T tokens, V vocabulary. Source: Guo et al. 2024, arXiv 2402.03749; paper, baselines. The paper's
temperature is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import AdapterSFTTrainer
from gradtx_hf.finetuning.encoding import IGNORED


def vissup_weights(own: Tensor, weak: Tensor, *, temperature: float) -> Tensor:
    """Return β of every example ``[B]``, in (0, 1).

    As no label fits the strong model better than its own, β is at most 1/2; it goes to 1/2 as the temperature grows.

    Args:
        own: CE(f, f̂) ``[B]``, in nats per token.
        weak: CE(f, f̂_w) ``[B]``, in nats per token.
        temperature: T, positive.
    """
    return torch.sigmoid((own - weak) / temperature).detach()


def vissup_loss(logits: Tensor, weak: Tensor, *, temperature: float) -> Tensor:
    """Return the summed loss of a batch's tokens.

    Args:
        logits: The strong model's ``[B, T, V]``.
        weak: The weak labels ``[B, T]``; -100 where no loss is taken.
        temperature: T, positive.

    Returns:
        A scalar in nats.
    """
    has_loss = weak != IGNORED
    own = logits.argmax(dim=-1).masked_fill(~has_loss, IGNORED)
    counts = has_loss.sum(dim=1).clamp_min(1)
    by_weak, by_own = (
        cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED).sum(dim=1)
        for labels in (weak, own)
    )  # [B]
    beta = vissup_weights(by_own / counts, by_weak / counts, temperature=temperature)
    return ((1 - beta) * by_weak + beta * by_own).sum()


class VisSupSFTTrainer(AdapterSFTTrainer):
    """AdapterSFTTrainer whose labels are weak, with VisSup's adaptive confidence."""

    def __init__(self, *, temperature: float, **options: Any) -> None:  # noqa: ANN401 - those of SFTTrainer
        super().__init__(**options)
        self._temperature = temperature

    def summed_loss(self, logits: Tensor, targets: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of a batch's token losses (see ``vissup_loss``)."""
        return vissup_loss(logits.float(), targets, temperature=self._temperature)


def vissup_trainer(temperature: float) -> Callable[..., AdapterSFTTrainer]:
    """Return what makes the trainer, for ``fine_tune_on_weak_labels``.

    Args:
        temperature: T, positive: the larger, the more alike both labels count.

    Raises:
        ConfigurationError: If it is not positive.
    """
    if not temperature > 0:
        raise ConfigurationError(f"got temperature={temperature!r}, expected a positive number.")
    return partial(VisSupSFTTrainer, temperature=temperature)
