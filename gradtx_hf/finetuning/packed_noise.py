"""NoisyAdapters: packed runs that take DP-SGD's noisy steps, for the shadow sets of a translator for private clients.

Noise changes how far AdamW moves and in which proportions, not only how exactly: a translator reads private clients'
adapters when its shadow runs were trained alike. Shadow data are public, so nothing is guaranteed here: batches are of
a fixed size, and the noise follows from the run's seed. Every row has its own copy of its run's factors, whose
gradients are then those of single rows; what leaves is a loss whose gradient is the noisy mean of the clipped ones.

Axes: K runs, R rows of each in a batch, T tokens, r rank. Source: Abadi et al. 2016 (the step); the rest is ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.finetuning.packed_model import PackedAdapters
from gradtx_hf.finetuning.recipe import FineTuningRecipe


SMALL = 1e-6
"""Added to norms, as in DP-SGD's own clipping."""


class NoisyAdapters(PackedAdapters):
    """K adapters whose gradients are noisy means of the clipped gradients of rows.

    Args:
        base: The base model, without adapters of its own.
        starts: Every run's first values.
        scales: Module path to the LoRA scale of that module (alpha / r).
        seeds: Seed of every run; it chooses the run's noise among ``recipe.row_noise``, and draws it.
        recipe: How the runs train; rows are clipped to its ``max_grad_norm``.
        dropout: LoRA dropout, which must be 0.

    Raises:
        ConfigurationError: If there is dropout, whose masks are drawn for runs and not for rows.
        LayoutError: If the runs start with different tensors, or these are not of the modules of ``scales``.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        starts: Sequence[Mapping[str, Tensor]],
        *,
        scales: Mapping[str, float],
        seeds: Sequence[int],
        recipe: FineTuningRecipe,
        dropout: float,
    ) -> None:
        if dropout:
            raise ConfigurationError(f"got dropout={dropout:g} with row_noise, expected 0. Set dropout: 0.")
        super().__init__(base, starts, scales=scales, dropout=0.0, seeds=seeds)
        self._recipe = recipe
        self._seeds = list(seeds)
        self.begin_step(0)

    def begin_step(self, step: int) -> None:
        """Let the noise be that of an optimizer step, from 0: the same wherever the runs were interrupted."""
        states = [random.Random(f"noise of step {step} of run {seed}").getrandbits(63) for seed in self._seeds]
        self._generators = [torch.Generator().manual_seed(state) for state in states]

    def forward(
        self, input_ids: Tensor, labels: Tensor, extents: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return each run's own loss ``[K]``, the mean over its rows; its gradient is what a noisy step takes.

        Args:
            input_ids: ``[K · R, T]``, grouped by run.
            labels: ``[K · R, T]``; -100 where no loss is taken, all over where a run has fewer rows.
            extents: Not used: there is no dropout.
            attention_mask: ``[K · R, T]``; None where no row is padded.
        """
        num_runs = len(self._seeds)
        num_rows = len(input_ids) // num_runs
        copies = {n: f.detach().repeat_interleave(num_rows, 0).requires_grad_() for n, f in self.factors.items()}
        losses = self._stack.losses(copies, input_ids=input_ids, labels=labels, attention_mask=attention_mask)
        gradients = torch.autograd.grad(losses.sum(), list(copies.values()))  # each [K · R, …]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        shares = (self._recipe.max_grad_norm / (norms + SMALL)).clamp(max=1.0)
        linear = torch.zeros(num_runs, device=losses.device, dtype=losses.dtype)
        for factor, gradient in zip(self.factors.values(), gradients, strict=True):
            clipped = torch.einsum("b,b...->b...", shares, gradient).unflatten(0, (num_runs, num_rows)).sum(dim=1)
            step = (clipped + self._noise(factor)) / self._recipe.batch_size
            linear = linear + (factor * step).flatten(1).sum(dim=1)  # whose gradient is that step
        is_row = (labels[:, 1:] != IGNORED).any(dim=1).view(num_runs, num_rows)
        means = losses.detach().view(num_runs, num_rows).sum(dim=1) / is_row.sum(dim=1).clamp_min(1)
        return linear + (means - linear).detach()

    def keep(self, positions: Sequence[int], optimizer: torch.optim.Optimizer) -> None:
        """Go on with some of the runs, in place; see ``PackedAdapters``."""
        super().keep(positions, optimizer)
        self._seeds = [self._seeds[position] for position in positions]

    def set_factors(self, factors: Mapping[str, Tensor], *, positions: Sequence[int]) -> None:
        """Go on with some of the runs from other values; see ``PackedAdapters``."""
        super().set_factors(factors, positions=positions)
        self._seeds = [self._seeds[position] for position in positions]

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Leave the gradients as they are: rows were clipped, and noise must not be; norms ``[K]`` as 0."""
        del max_norm
        return torch.zeros(len(self._seeds))

    def _noise(self, factor: Tensor) -> Tensor:
        """Return a batch's share ``[K, …]`` of the noise on the sum of a step's clipped gradients."""
        recipe = self._recipe
        unit = recipe.max_grad_norm / math.sqrt(recipe.gradient_accumulation_steps)
        drawn = [
            noise_of_run(recipe, seed) * torch.randn(factor.shape[1:], generator=generator)
            for seed, generator in zip(self._seeds, self._generators, strict=True)
        ]
        return unit * torch.stack(drawn).to(factor)


class NoiseCallback(TrainerCallback):
    """Tells the adapters which step begins."""

    def __init__(self, adapters: NoisyAdapters) -> None:
        self._adapters = adapters

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Draw this step's noise anew."""
        self._adapters.begin_step(state.global_step)


def noise_of_run(recipe: FineTuningRecipe, seed: int) -> float:
    """Return the standard deviation of a run's noise, in units of the clipping norm: one of ``recipe.row_noise``."""
    return random.Random(f"row noise of run {seed}").choice(recipe.row_noise)
