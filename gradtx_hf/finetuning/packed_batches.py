"""PackBatches: what K runs see at once, every run its own rows in its own order, gathered from tensors.

Axes: K runs, S optimizer steps, G batches per step, R rows of each run in a batch, T tokens. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from datasets import Dataset
from torch import Tensor

from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.finetuning.recipe import FineTuningRecipe


class PackBatches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The batches of K runs side by side, in the order of training.

    A run with fewer rows in a batch than others, at the end of an epoch, gets rows without labels beside its own.

    Args:
        examples: Columns ``input_ids`` and ``labels`` of every run.
        seeds: Seed of every run's order.
        recipe: How the runs train.
        pad_token_id: What to pad with.

    Attributes:
        running: Numbers of the runs that batches are made of, in the order of their rows; all at first.
    """

    def __init__(
        self, examples: Sequence[Dataset], *, seeds: Sequence[int], recipe: FineTuningRecipe, pad_token_id: int
    ) -> None:
        self.running = list(range(len(examples)))
        self._num_accumulated = recipe.gradient_accumulation_steps
        filler = {"input_ids": [[pad_token_id]], "labels": [[IGNORED]]}
        columns = [rows[:] for rows in examples] + [filler]
        ids = [row for column in columns for row in column["input_ids"]]  # all runs' rows, then the filler
        labels = [row for column in columns for row in column["labels"]]
        self._lengths = torch.tensor([len(row) for row in ids])
        self._ids = _padded(ids, self._lengths, pad_token_id)
        self._labels = _padded(labels, self._lengths, IGNORED)
        self._num_labels = (self._labels[:, 1:] != IGNORED).sum(dim=1)
        self._filler = len(ids) - 1
        self._rows = torch.full(
            (recipe.num_steps, self._num_accumulated, len(examples), recipe.batch_size), self._filler
        )  # [S, G, K, R]
        first = 0
        for k, (own, seed) in enumerate(zip(examples, seeds, strict=True)):
            for s, step in enumerate(row_batches(len(own), recipe, seed=seed)):
                for g, rows in enumerate(step):
                    self._rows[s, g, k, : len(rows)] = first + rows
            first += len(own)

    def __len__(self) -> int:
        return len(self._rows) * self._num_accumulated

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one batch of the runs that are running.

        Returns:
            ``input_ids`` and ``labels`` ``[K · R, T]``, grouped by run; ``attention_mask`` of that shape where a row
            is padded; ``shares`` ``[K]``, this batch's share of the labelled tokens of the run's optimizer step;
            ``extents`` ``[K, 2]``, each run's own rows and tokens per row, which it would have alone.
        """
        s, g = divmod(index, self._num_accumulated)
        of_step = self._rows[s][:, self.running]  # [G, K, R]
        num_labels = self._num_labels[of_step].sum(dim=2)  # [G, K]
        is_own = of_step[g] != self._filler  # [K, R]; fillers stand behind the rows
        num_rows = max(1, int(is_own.any(dim=0).sum()))
        rows = of_step[g, :, :num_rows].flatten()
        lengths = self._lengths[rows]
        num_tokens = int(lengths.max())
        batch = {
            "input_ids": self._ids[rows, :num_tokens],
            "labels": self._labels[rows, :num_tokens],
            "shares": num_labels[g] / num_labels.sum(dim=0),
            "extents": torch.stack([is_own.sum(dim=1), (self._lengths[of_step[g]] * is_own).amax(dim=1)], dim=1),
        }
        if int(lengths.min()) < num_tokens:
            batch["attention_mask"] = (torch.arange(num_tokens) < lengths[:, None]).long()
        return batch


def row_batches(num_rows: int, recipe: FineTuningRecipe, *, seed: int) -> list[tuple[Tensor, ...]]:
    """Return which rows each optimizer step takes: those that ``fine_tune`` takes with the same seed.

    Trainer lets accelerate's SeedableRandomSampler draw: epoch e is the permutation of a generator with seed + e. The
    last batch of an epoch has the rows that are left, its last step the batches that are left.

    Args:
        num_rows: Number of the run's examples.
        recipe: How it trains.
        seed: Seed of the run.

    Returns:
        For each step, the row numbers ``[R]`` of each of its batches.
    """
    steps: list[tuple[Tensor, ...]] = []
    epoch = 0
    while len(steps) < recipe.num_steps:
        order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed + epoch))
        batches = order.split(recipe.batch_size)
        num_at_once = recipe.gradient_accumulation_steps
        steps += [batches[i : i + num_at_once] for i in range(0, len(batches), num_at_once)]
        epoch += 1
    return steps[: recipe.num_steps]


def _padded(rows: Sequence[Sequence[int]], lengths: Tensor, value: int) -> Tensor:
    """Return rows of several lengths as one tensor ``[rows, T]``."""
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.full(mask.shape, value).masked_scatter(mask, torch.tensor(list(chain.from_iterable(rows))))
