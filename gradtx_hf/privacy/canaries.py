"""Canaries in a DP-SGD run: gradients of our own making (white box), and rows with random completions.

Every canary is in by a fair coin from the operating system's randomness. An inserted canary is drawn into every step
with the sample rate, like a row; one that is not in is never drawn. Sample rate and number of steps do not depend on
the coins, so that neighbouring runs differ by one canary, added or removed: what epsilon is stated for.

A gradient canary is a row whose clipped gradient has norm C and a coordinate of its own. Whoever sees every step's
noisy sum scores it by what its coordinate holds, less what the genuine rows put there: they are no canaries, and what
is known of them takes nothing from the guarantee. It enters behind the clipping, so it sees the noise and the
sampling; clipping that is wrong is for ``gradient_self_test``. Text canaries are rows and are clipped as such, but what
an adapter shows of them at the end says less than every step's sum.

Source: Steinke, Nasr and Jagielski (2023), sections 6 and 7; text canaries: Panda et al. (arXiv 2503.06808).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.dp import DPSFTTrainer
from gradtx_hf.finetuning.private_random import private_uniform


@dataclass(eq=False)
class GradientCanaries:
    """Gradient canaries of one run.

    Attributes:
        included: Whether each is in: ``[m]``, by its coin.
        scores: What each canary's coordinate came to, summed over the steps: float64 ``[m]``, filled by the run.
    """

    included: Tensor
    scores: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Begin at zero."""
        self.scores = torch.zeros(len(self.included), dtype=torch.float64)


class GradientCanaryTrainer(DPSFTTrainer):
    """DPSFTTrainer that draws gradient canaries into its steps and scores them.

    Args:
        canaries: The canaries; their scores are filled.
        options: Options of DPSFTTrainer.

    Raises:
        ConfigurationError: If there are more canaries than trainable numbers.
    """

    def __init__(self, *, canaries: GradientCanaries, **options: Any) -> None:  # noqa: ANN401 - DPSFTTrainer's options
        super().__init__(**options)
        self._trained = [parameter for parameter in options["model"].parameters() if parameter.requires_grad]
        num_places = sum(parameter.numel() for parameter in self._trained)
        if len(canaries.included) > num_places:
            raise ConfigurationError(
                f"got {len(canaries.included)} gradient canaries for {num_places} trainable numbers, expected a "
                "coordinate for each. Take fewer canaries, or a larger rank."
            )
        self._canaries = canaries
        self._places = private_uniform(num_places).argsort()[: len(canaries.included)]
        self._rows_part = torch.zeros(len(canaries.included), dtype=torch.float64)

    def clipped_sums(self, model: torch.nn.Module, chunks: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], Tensor]:
        """Add the canaries that this step draws to the sum over its rows."""
        sums, losses = super().clipped_sums(model, chunks)
        flat = _flat(sums)
        self._rows_part = self._at_places(flat)
        drawn = self._canaries.included & (private_uniform(len(self._places)) < self.steps.sample_rate)
        flat[self._places[drawn].to(flat.device)] += self.max_grad_norm
        parts = flat.split([total.numel() for total in sums])
        return [part.view_as(total) for part, total in zip(parts, sums, strict=True)], losses

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Take the step, and score the canaries by the noisy sum that it releases."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        released = _flat([parameter.grad for parameter in self._trained if parameter.grad is not None])
        self._canaries.scores += self._at_places(released * self.expected_batch_size) - self._rows_part
        return loss

    def _at_places(self, flat: Tensor) -> Tensor:
        return flat[self._places.to(flat.device)].double().cpu()


class TextCanaryTrainer(DPSFTTrainer):
    """DPSFTTrainer that draws some of its rows never: the canaries that are not in.

    Args:
        present: Whether each row may be drawn, ``[rows]``.
        options: Options of DPSFTTrainer.
    """

    def __init__(self, *, present: Tensor, **options: Any) -> None:  # noqa: ANN401 - DPSFTTrainer's options
        super().__init__(**options)
        self._present = present

    def batches(self) -> Sampler[list[int]]:
        """Return the rows of every step, without those that are not there."""
        return _PresentRows(super().batches(), self._present)


class _PresentRows(Sampler[list[int]]):
    """Leaves rows out of batches."""

    def __init__(self, batches: Sampler[list[int]], present: Tensor) -> None:
        self._batches = batches
        self._present: list[bool] = present.tolist()

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # a PoissonSampler has a length

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield [row for row in batch if self._present[row]]


def flip_coins(num_coins: int) -> Tensor:
    """Return fair coins from the operating system's randomness: bool ``[num_coins]``."""
    return private_uniform(num_coins) < 0.5


def make_text_canaries(prompts: Sequence[str], *, alphabet: str, num_characters: int) -> Dataset:
    """Make rows that only memory can complete: prompts with random completions.

    Args:
        prompts: One for each canary, such as prompts of the data's own form, none of them twice.
        alphabet: Characters of the completions.
        num_characters: Characters of each: a completion holds ``num_characters * log2(len(alphabet))`` bits.

    Returns:
        Columns ``prompt`` and ``completion``; drawn from the operating system's randomness, never alike.
    """
    drawn = (private_uniform(len(prompts) * num_characters) * len(alphabet)).long().view(len(prompts), num_characters)
    completions = ["".join(alphabet[place] for place in row) for row in drawn.tolist()]
    return Dataset.from_dict({"prompt": list(prompts), "completion": completions})


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
