"""Fine-tuning in parts: one run on each part of the data, from one start, and the mean of the adapters.

One run's adapter says what its data have in common and, as loud, which rows happened to be among them. The mean over
runs on different rows keeps the first and loses most of the second, and stays what a translator was trained to read,
where a larger batch would also move farther from the start. It is what the paper's mean over clients of one task
(Eq. 3) does, within one client. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning.packed import PackedResult, PackedRun, fine_tune_pack
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import FineTuningResult


def fine_tune_parts(
    model: PreTrainedModel,
    runs: Sequence[PackedRun],
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    scales: Mapping[str, float],
    dropout: float = 0.0,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[PackedResult]:
    """Fine-tune adapters, each on ``recipe.num_parts`` parts of its data, all side by side, and take each one's mean.

    Row i goes to part i modulo ``num_parts``; the run on part k has the seed ``seed`` + k.

    Args:
        model: The base model, without adapters.
        runs: An adapter each: its start, data and first seed.
        tokenizer: The model's tokenizer; for padding.
        recipe: How each part's run trains.
        scales: Module path to the LoRA scale of that module, as ``Adapter.scales``.
        dropout: LoRA dropout, in [0, 1).
        callbacks: Further callbacks, such as a bar of the steps, which all parts take side by side.

    Returns:
        For each adapter the mean over its parts; the most steps, the mean loss, and whether all parts converged.

    Raises:
        DataError: If one has fewer rows than parts.
        ConfigurationError: If the loss of a run did not stay finite, or the recipe is one of shadow runs.
    """
    if recipe.row_noise:
        raise ConfigurationError("row_noise is for shadow runs. A client's own run is made private with privacy.")
    num_parts = recipe.num_parts
    results = fine_tune_pack(
        model,
        [part for run in runs for part in _parts_of(run, num_parts)],
        tokenizer=tokenizer,
        recipe=replace(recipe, num_parts=1),
        scales=scales,
        dropout=dropout,
        callbacks=callbacks,
    )
    return [_mean(results[first : first + num_parts]) for first in range(0, len(results), num_parts)]


def _parts_of(run: PackedRun, num_parts: int) -> list[PackedRun]:
    if len(run.examples) < num_parts:
        raise DataError(f"got {len(run.examples)} rows for num_parts={num_parts}, expected at least one for each part.")
    if num_parts == 1:
        return [run]
    return [
        PackedRun(
            f"{run.name} on part {k} of the data",
            run.start,
            run.examples.shard(num_parts, k, contiguous=False),
            run.seed + k,
        )
        for k in range(num_parts)
    ]


def _mean(parts: Sequence[PackedResult]) -> PackedResult:
    summaries = [part.summary for part in parts]
    summary = FineTuningResult(
        num_steps=max(summary.num_steps for summary in summaries),
        final_loss=math.fsum(summary.final_loss for summary in summaries) / len(summaries),
        converged=all(summary.converged for summary in summaries),
    )
    means: dict[str, Tensor] = {
        name: torch.stack([part.tensors[name] for part in parts]).mean(dim=0) for name in parts[0].tensors
    }
    return PackedResult(summary, means)
