"""Conf: weak labels, mixed with the strong model's own confident predictions.

For every token, (1 - alpha) · CE(f, weak label) + alpha · CE(f, f̂_t). f̂_t is the strong model's own most likely token,
where its probability is among the upper half of the batch's; elsewhere it is the weak label (ours: the papers'
threshold is for two classes, and a text's token has as many as the vocabulary). alpha rises linearly from 0.

Axes: M tokens with loss of a batch, V vocabulary. Source: Burns et al. 2024, arXiv 2312.09390; paper, baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import AdapterSFTTrainer
from gradtx_hf.finetuning.encoding import IGNORED


@dataclass(frozen=True)
class ConfidenceSettings:
    """How much the strong model trusts itself.

    Attributes:
        max_alpha: Weight of its own predictions once it has risen, in [0, 1]; 0 is plain W2S.
        warmup_share: Share of the training over which alpha rises, in [0, 1]; 0.2 (paper).

    Raises:
        ConfigurationError: If a value is out of its range.
    """

    max_alpha: float = 0.5  # "0.75 for the largest" models (Burns et al. 2024)
    warmup_share: float = 0.2

    def __post_init__(self) -> None:
        for name, value in (("max_alpha", self.max_alpha), ("warmup_share", self.warmup_share)):
            if not 0 <= value <= 1:
                raise ConfigurationError(f"got {name}={value!r}, expected a share in [0, 1].")

    def alpha(self, step: int, num_steps: int) -> float:
        """Return alpha.

        Args:
            step: Optimizer steps taken, from 0.
            num_steps: Optimizer steps of the whole training.
        """
        rise = self.warmup_share * num_steps
        return self.max_alpha * (min(1.0, step / rise) if rise > 0 else 1.0)


def confidence_loss(logits: Tensor, weak: Tensor, *, alpha: float) -> Tensor:
    """Return the summed loss of a batch's tokens.

    Args:
        logits: The strong model's ``[M, V]``.
        weak: The weak labels ``[M]``.
        alpha: Weight of the strong model's own predictions, in [0, 1].

    Returns:
        A scalar in nats.
    """
    confidence, own = logits.detach().softmax(dim=-1).max(dim=-1)  # [M]
    num_passing = (len(confidence) + 1) // 2
    threshold = confidence.topk(num_passing).values[-1:]
    hardened = own.where(confidence >= threshold, weak)
    by_weak = cross_entropy(logits, weak, reduction="sum")
    return (1 - alpha) * by_weak + alpha * cross_entropy(logits, hardened, reduction="sum")


class ConfidenceSFTTrainer(AdapterSFTTrainer):
    """AdapterSFTTrainer whose labels are weak, with the auxiliary confidence loss."""

    def __init__(self, *, settings: ConfidenceSettings, **options: Any) -> None:  # noqa: ANN401 - those of SFTTrainer
        super().__init__(**options)
        self._settings = settings

    def summed_loss(self, logits: Tensor, targets: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of a batch's token losses (see ``confidence_loss``)."""
        has_loss = targets != IGNORED
        alpha = self._settings.alpha(self.state.global_step, self.state.max_steps)
        return confidence_loss(logits[has_loss].float(), targets[has_loss], alpha=alpha)


def confidence_trainer(settings: ConfidenceSettings) -> Callable[..., AdapterSFTTrainer]:
    """Return what makes the trainer, for ``fine_tune_on_weak_labels``."""
    return partial(ConfidenceSFTTrainer, settings=settings)
