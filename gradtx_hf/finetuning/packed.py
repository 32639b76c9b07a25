"""Packed fine-tuning: K runs at once on one frozen base, each as if it were alone.

Every run has its own data order, loss, gradient clipping and moments of AdamW, and leaves the pack when it has
converged; only the passes through the base are shared, which for a small model is most of the time. Plain Trainer
drives it with the arguments of ``fine_tune``, so that schedule, optimizer, bf16, device and accumulation are the same
by construction; TRL's trainer would want one model and one data set. Source: ours.

Axes: K runs, r rank.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.packed_batches import PackBatches
from gradtx_hf.finetuning.packed_model import PackedAdapters
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import (
    FineTuningResult,
    has_converged,
    pad_token_id,
    require_tokens,
    summarise_run,
    training_arguments,
)


OnStep = Callable[[Sequence[int], Mapping[str, Tensor]], None]
"""Called after every optimizer step with the numbers of the runs that are running and their factors ``[K, …]``, which
change with the next step."""


@dataclass(frozen=True, eq=False)
class PackedRun:
    """One run of a pack.

    Attributes:
        name: What messages call it.
        start: Its adapter's first values, ``lora_A`` ``[r, in]`` and ``lora_B`` ``[out, r]`` by name.
        examples: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``.
        seed: Seed of the order of its data.
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


def fine_tune_pack(
    model: PreTrainedModel,
    runs: Sequence[PackedRun],
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    scales: Mapping[str, float],
    dropout: float = 0.0,
    on_step: OnStep | None = None,
) -> list[PackedResult]:
    """Fine-tune several adapters at once, each as ``fine_tune`` would with its data and seed.

    Without dropout, in the LoRA or the model, a run depends on nothing of the others but the last bits of its numbers;
    with it, masks are drawn for the pack, from the first run's seed.

    Args:
        model: The base model, without adapters; left in evaluation mode, its parameters untouched.
        runs: The runs, at least one; their adapters are of one shape.
        tokenizer: The model's tokenizer; for padding.
        recipe: How each run trains.
        scales: Module path to the LoRA scale of that module, as ``Adapter.scales``.
        dropout: LoRA dropout, in [0, 1).
        on_step: A recorder of snapshots.

    Returns:
        The results, in the order of the runs.

    Raises:
        ConfigurationError: If the loss of a run did not stay finite; the message names the first such run.
        DataError: If examples are not tokenized.
        LayoutError: If the adapters are not of one shape, or not of this model.
    """
    for run in runs:
        require_tokens(run.examples)
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch, _frozen(model):
        trainer = PackTrainer(
            model=PackedAdapters(model, [run.start for run in runs], scales=scales, dropout=dropout),
            args=training_arguments(recipe, seed=runs[0].seed, scratch=scratch),
            batches=PackBatches(
                [run.examples for run in runs],
                seeds=[run.seed for run in runs],
                recipe=recipe,
                pad_token_id=pad_token_id(tokenizer),
            ),
        )
        if on_step is not None:
            trainer.add_callback(_StepCallback(trainer, on_step))
        if recipe.until_converged:
            trainer.add_callback(_ConvergenceCallback(trainer, recipe))
        trainer.train()
        trainer.retire(trainer.batches.running)
    return [_result(run, recipe, retired) for run, retired in zip(runs, trainer.retired, strict=True)]


@dataclass(frozen=True, eq=False)
class RetiredRun:
    """A run that trains no longer.

    Attributes:
        tensors: Its adapter's last values by name, on the CPU.
        step_losses: Loss of every optimizer step, scalars on the model's device.
        converged: Whether it left before the others.
    """

    tensors: dict[str, Tensor]
    step_losses: list[Tensor]
    converged: bool


class PackTrainer(Trainer):
    """Trainer of the factors of K runs: one loss, one clipping and one history each.

    Attributes:
        adapters: The factors of the runs that are running.
        batches: The batches, and which runs those are.
        step_losses: By run, loss of every optimizer step, in nats per completion token; scalars on the model's device.
    """

    def __init__(self, *, model: PackedAdapters, args: TrainingArguments, batches: PackBatches) -> None:
        super().__init__(model=model, args=args)
        self.remove_callback(PrinterCallback)
        # A new accelerator holds nothing to free; its garbage collection would take 0.2 s of every pack.
        self.accelerator.free_memory = lambda *objects: objects
        self.accelerator.clip_grad_norm_ = lambda parameters, max_norm: model.clip_gradients(max_norm)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of all accumulated batches
        self.adapters = model
        self.batches = batches
        self.step_losses: list[list[Tensor]] = [[] for _ in batches.running]
        self._retired: dict[int, RetiredRun] = {}

    @property
    def retired(self) -> list[RetiredRun]:
        """The runs that train no longer, in the order of their numbers."""
        return [self._retired[k] for k in sorted(self._retired)]

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the batches, made one by one of the runs that are then running."""
        return DataLoader(self.batches, batch_size=None)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the sum of the runs' losses, so that each run's gradient is that of its own.

        Args:
            model: The packed adapters.
            inputs: A batch of ``PackBatches``.
            return_outputs: Return (loss, losses).
            num_items_in_batch: Not used: the batch holds each run's own.
        """
        shares = inputs.pop("shares")
        losses = model(**inputs) * shares  # [K]
        self._record(losses.detach())
        return (losses.sum(), losses) if return_outputs else losses.sum()

    def _record(self, losses: Tensor) -> None:
        for k, loss in zip(self.batches.running, losses.unbind(), strict=True):
            own = self.step_losses[k]
            if len(own) == self.state.global_step:
                own.append(loss)
            else:
                own[-1] = own[-1] + loss

    def retire(self, runs: Sequence[int], *, converged: bool = False) -> None:
        """Take runs out of the pack; the others go on.

        Args:
            runs: Numbers of runs that are running.
            converged: Whether they stop because their loss no longer improved.
        """
        positions = {k: position for position, k in enumerate(self.batches.running)}
        for k in runs:
            self._retired[k] = RetiredRun(self.adapters.state_of(positions[k]), self.step_losses[k], converged)
        self.batches.running = [k for k in positions if k not in self._retired]
        if self.batches.running and self.optimizer is not None:
            self.adapters.keep([positions[k] for k in self.batches.running], self.optimizer)


class _StepCallback(TrainerCallback):
    """Shows the factors after every optimizer step."""

    def __init__(self, trainer: PackTrainer, on_step: OnStep) -> None:
        self._trainer, self._on_step = trainer, on_step

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._on_step(self._trainer.batches.running, self._trainer.adapters.factors)


class _ConvergenceCallback(TrainerCallback):
    """Takes runs out of the pack once their loss no longer improves."""

    def __init__(self, trainer: PackTrainer, recipe: FineTuningRecipe) -> None:
        self._trainer, self._recipe = trainer, recipe

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Check at the end of every window."""
        if state.global_step % self._recipe.convergence_window == 0:
            running = self._trainer.batches.running
            converged = [k for k in running if self._has_converged(self._trainer.step_losses[k])]
            if converged:
                self._trainer.retire(converged, converged=True)
            control.should_training_stop |= len(converged) == len(running)

    def _has_converged(self, losses: list[Tensor]) -> bool:
        return has_converged(
            torch.stack(losses).tolist(),
            window=self._recipe.convergence_window,
            threshold=self._recipe.convergence_threshold,
            patience=self._recipe.convergence_patience,
        )


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
