"""Packed fine-tuning: K runs at once on one frozen base, each as if it were alone.

Every run has its own data order, loss, dropout, gradient clipping and moments of AdamW, and leaves the pack when it
has converged; only the passes through the base are shared, which for a small model is most of the time. Plain Trainer
drives it with the arguments of ``fine_tune``, so that schedule, optimizer, bf16, device, accumulation, callbacks and
logging are the same by construction; TRL's trainer would want one model and one data set. Source: ours.

Axes: K runs, r rank.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.packed_batches import PackBatches
from gradtx_hf.finetuning.packed_checkpoint import PackCheckpoints
from gradtx_hf.finetuning.packed_model import PackedAdapters
from gradtx_hf.finetuning.packed_noise import NoiseCallback, NoisyAdapters
from gradtx_hf.finetuning.packed_trainer import PackTrainer, RetiredRun, StepRecorder
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import (
    FineTuningResult,
    pad_token_id,
    require_tokens,
    summarise_run,
    training_arguments,
)


@dataclass(frozen=True, eq=False)
class PackedRun:
    """One run of a pack.

    Attributes:
        name: What messages call it.
        start: Its adapter's first values, ``lora_A`` ``[r, in]`` and ``lora_B`` ``[out, r]`` by name.
        examples: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``.
        seed: Seed of the order of its data and of its dropout.
    """

    name: str
    start: Mapping[str, Tensor]
    examples: Dataset
    seed: int


@dataclass(frozen=True, eq=False)
class PackedResult:
    """What one run of a pack came to.

    Attributes:
        summary: Steps, loss and whether it converged.
        tensors: Its adapter's last values by name, on the CPU.
    """

    summary: FineTuningResult
    tensors: dict[str, Tensor]


def fine_tune_pack(  # noqa: PLR0913 - one keyword for each thing that takes part
    model: PreTrainedModel,
    runs: Sequence[PackedRun],
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    scales: Mapping[str, float],
    dropout: float = 0.0,
    recorder: StepRecorder | None = None,
    checkpoints: PackCheckpoints | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[PackedResult]:
    """Fine-tune several adapters at once, each as ``fine_tune`` would with its data and seed.

    A run depends on nothing of the others but the last bits of its numbers. (A base model's own dropout, which those
    of today do not have, would be drawn for the pack, from the first run's seed.) LoRA dropout is each run's own, so
    it has other masks than ``fine_tune`` draws.

    Args:
        model: The base model, without adapters; left in evaluation mode, its parameters untouched.
        runs: The runs, at least one; their adapters are of one shape.
        tokenizer: The model's tokenizer; for padding.
        recipe: How each run trains.
        scales: Module path to the LoRA scale of that module, as ``Adapter.scales``.
        dropout: LoRA dropout, in [0, 1).
        recorder: A recorder of snapshots.
        checkpoints: Where the pack's checkpoints are kept while it runs; one that is there is gone on from, with the
            same bits on a CPU with one thread. The caller removes them.
        callbacks: Further callbacks; ``model`` is ``PackedAdapters``, and the log has the mean loss of the runs once
            every ``convergence_window`` steps.

    Returns:
        The results, in the order of the runs.

    Raises:
        ConfigurationError: If the loss of a run did not stay finite; the message names the first such run. Or if there
            is dropout with the recipe's ``row_noise``.
        DataError: If examples are not tokenized.
        LayoutError: If the adapters are not of one shape, or not of this model.
    """
    for run in runs:
        require_tokens(run.examples)
    seeds = [run.seed for run in runs]
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch, _frozen(model):
        arguments = training_arguments(recipe, seed=seeds[0], scratch=scratch)
        arguments.logging_strategy, arguments.logging_steps = IntervalStrategy.STEPS, recipe.convergence_window
        starts = [run.start for run in runs]
        model.to(arguments.device)  # type: ignore[arg-type]  # transformers wraps torch's method without its types
        adapters = (
            NoisyAdapters(model, starts, scales=scales, dropout=dropout, seeds=seeds, recipe=recipe)
            if recipe.row_noise
            else PackedAdapters(model, starts, scales=scales, dropout=dropout, seeds=seeds)
        )
        trainer = PackTrainer(
            model=adapters,
            args=arguments,
            batches=PackBatches(
                [run.examples for run in runs], seeds=seeds, recipe=recipe, pad_token_id=pad_token_id(tokenizer)
            ),
        )
        if isinstance(adapters, NoisyAdapters):
            trainer.add_callback(NoiseCallback(adapters))
        if recorder is not None:
            trainer.show_steps(recorder)
        if recipe.until_converged:
            trainer.retire_converged(recipe)
        for callback in callbacks:
            trainer.add_callback(callback)
        identity = {
            "version": 1,
            "runs": [[run.name, run.seed, len(run.examples)] for run in runs],
            "recipe": recipe.to_dict(),
            "dropout": dropout,
        }
        retired = trainer.fine_tune(checkpoints, identity=identity)
    return [_result(run, recipe, ended) for run, ended in zip(runs, retired, strict=True)]


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Leave a model's parameters out of training for a while."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad = True
        model.eval()


def _result(run: PackedRun, recipe: FineTuningRecipe, retired: RetiredRun) -> PackedResult:
    try:
        summary = summarise_run(retired.step_losses, recipe, converged=retired.converged)
    except ConfigurationError as error:
        raise ConfigurationError(f"{run.name}: {error}") from error
    return PackedResult(summary, retired.tensors)
