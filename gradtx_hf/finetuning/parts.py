"""Fine-tuning in parts: one run on each part of the data, from one start, and the mean of the adapters.

One run's adapter says what its data have in common and, as loud, which rows happened to be among them. The mean over
runs on different rows keeps the first and loses most of the second, and stays what a translator was trained to read,
where a larger batch would also move farther from the start. It is what the paper's mean over clients of one task
(Eq. 3) does, within one client. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning.packed import PackedResult, PackedRun, fine_tune_pack
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import FineTuningResult
from gradtx_hf.lora import Adapter


def fine_tune_parts(
    model: PreTrainedModel,
    start: Adapter,
    examples: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> PackedResult:
    """Fine-tune an adapter on each of ``recipe.num_parts`` parts of the data, side by side, and take their mean.

    Row i goes to part i modulo ``num_parts``; run k has the seed ``seed`` + k.

    Args:
        model: The base model, without adapters.
        start: The adapter that every run starts from.
        examples: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``.
        tokenizer: The model's tokenizer; for padding.
        recipe: How each run trains.
        seed: Seed of the first run.
        callbacks: Further callbacks, such as a bar of the steps, which all parts take side by side.

    Returns:
        The mean of the adapters; of the runs the most steps, the mean loss, and whether all converged.

    Raises:
        DataError: If there are fewer rows than parts.
        ConfigurationError: If the loss of a run did not stay finite, or the recipe is one of shadow runs.
    """
    num_parts = recipe.num_parts
    if recipe.row_noise:
        raise ConfigurationError("row_noise is for shadow runs. A client's own run is made private with privacy.")
    if len(examples) < num_parts:
        raise DataError(f"got {len(examples)} rows for num_parts={num_parts}, expected at least one for each part.")
    runs = [
        PackedRun(
            f"the run on part {k} of the data", start.tensors, examples.shard(num_parts, k, contiguous=False), seed + k
        )
        for k in range(num_parts)
    ]
    results = fine_tune_pack(
        model,
        runs,
        tokenizer=tokenizer,
        recipe=replace(recipe, num_parts=1),
        scales=start.scales,
        dropout=float(start.config.lora_dropout),
        callbacks=callbacks,
    )
    summaries = [result.summary for result in results]
    summary = FineTuningResult(
        num_steps=max(run.num_steps for run in summaries),
        final_loss=math.fsum(run.final_loss for run in summaries) / num_parts,
        converged=all(run.converged for run in summaries),
    )
    means = {name: torch.stack([result.tensors[name] for result in results]).mean(dim=0) for name in start.tensors}
    return PackedResult(summary, means)
