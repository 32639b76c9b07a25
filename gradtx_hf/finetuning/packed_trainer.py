"""PackTrainer: Trainer for the factors of K runs on one frozen base, with a loss, a clipping and a history of each.

Axes: K runs, r rank. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gradtx_hf.finetuning.packed_batches import PackBatches
from gradtx_hf.finetuning.packed_checkpoint import PackCheckpoints
from gradtx_hf.finetuning.packed_model import PackedAdapters
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import has_converged


class StepRecorder(Protocol):
    """What is shown the factors after every optimizer step, and goes on with its pack from a checkpoint."""

    def record(self, step: int, running: Sequence[int], factors: Mapping[str, Tensor]) -> None:
        """Take what a step left.

        Args:
            step: Number of the step, from 1.
            running: Numbers of the runs that are running.
            factors: Their factors by name, ``[K, r, in]`` and ``[K, out, r]``, which change with the next step.
        """

    def state(self) -> dict[str, Any]:
        """Bring all that was recorded to the disk; return what ``restore`` needs, as ``write_tree`` takes it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned."""


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
        self._recorder: StepRecorder | None = None
        self._checkpoints: PackCheckpoints | None = None
        self._identity: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}

    @property
    def retired(self) -> list[RetiredRun]:
        """The runs that train no longer, in the order of their numbers."""
        return [self._retired[k] for k in sorted(self._retired)]

    def show_steps(self, recorder: StepRecorder) -> None:
        """Show a recorder the factors after every optimizer step."""
        self._recorder = recorder
        self.add_callback(_RecorderCallback(self, recorder))

    def retire_converged(self, recipe: FineTuningRecipe) -> None:
        """Take runs out of the pack once their loss no longer improves, by the recipe's rule."""
        self.add_callback(_ConvergenceCallback(self, recipe))

    def fine_tune(self, checkpoints: PackCheckpoints | None, *, identity: Mapping[str, Any]) -> list[RetiredRun]:
        """Train all runs to their ends.

        Args:
            checkpoints: Where the pack goes on from, and what it may go on from later.
            identity: JSON values that tell this pack from others.
        """
        found = None
        if checkpoints is not None:
            self._checkpoints, self._identity = checkpoints, dict(identity)
            self.add_callback(_CheckpointCallback(checkpoints))
            found = checkpoints.read(identity)
        folder, self._resumed = found or (None, {})
        self.train(resume_from_checkpoint=None if folder is None else str(folder))
        self._resumed = {}
        self.retire(self.batches.running)
        return self.retired

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the batches, made one by one of the runs that are then running."""
        return DataLoader(self.batches, batch_size=1, collate_fn=itemgetter(0))

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean loss of the runs, where Trainer has their sum.

        Args:
            logs: The values to log.
            start_time: When training began.
        """
        if "loss" in logs:
            logs["loss"] = self._mean_loss(self.batches.running or list(self._retired), int(self.args.logging_steps))
        if "train_loss" in logs:
            logs["train_loss"] = self._mean_loss(range(len(self.step_losses)), self.state.global_step)
        super().log(logs, start_time)

    def _mean_loss(self, runs: Sequence[int], num_steps: int) -> float:
        """Return the mean over runs of the mean loss of the last steps of each, in nats per completion token."""
        return torch.stack([torch.stack(self.step_losses[k][-num_steps:]).mean() for k in runs]).mean().item()

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Tensor | None = None) -> float | Tensor | None:
        """Return the mean of the runs' norms, for the log."""
        return None if grad_norm is None else grad_norm.mean()

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """Write a checkpoint of the whole pack, of safetensors and JSON alone."""
        if self._checkpoints is not None:
            self._checkpoints.write(self._pack_state(), self.state)

    def _pack_state(self) -> dict[str, Any]:
        """Return all that the pack's further steps depend on, but for the data."""
        assert self.optimizer is not None  # Trainer makes it, and the scheduler, before its first step
        assert self.lr_scheduler is not None
        dropout, has_gpu = self.adapters.dropout, self.adapters.base.device.type == "cuda"
        return {
            "identity": self._identity,
            "running": self.batches.running,
            "factors": self.adapters.factors,
            "step_losses": [torch.stack(own) for own in self.step_losses],
            "retired": {k: {"tensors": run.tensors, "converged": run.converged} for k, run in self._retired.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "generators": [] if dropout is None else [generator.get_state() for generator in dropout.generators],
            "global_generators": [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if has_gpu else [])],
            "recorder": None if self._recorder is None else self._recorder.state(),
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Go on with the checkpoint's runs, their values and histories."""
        tree = self._resumed
        device = self.adapters.base.device
        self.batches.running = tree["running"]
        self.adapters.set_factors(tree["factors"], positions=tree["running"])
        self.step_losses = [list(losses.to(device).unbind()) for losses in tree["step_losses"]]
        self._retired = {
            k: RetiredRun(run["tensors"], self.step_losses[k], run["converged"]) for k, run in tree["retired"].items()
        }
        if self._recorder is not None:
            self._recorder.restore(tree["recorder"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the checkpoint's moments and learning rate."""
        if self._resumed and self.optimizer is not None and self.lr_scheduler is not None:
            self.optimizer.load_state_dict(self._resumed["optimizer"])
            self.lr_scheduler.load_state_dict(self._resumed["scheduler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on with the checkpoint's random generators."""
        if not self._resumed:
            return
        cpu, *cuda = self._resumed["global_generators"]
        torch.set_rng_state(cpu)
        if cuda and self.adapters.base.device.type == "cuda":
            torch.cuda.set_rng_state(cuda[0])
        if self.adapters.dropout is not None:
            for generator, state in zip(self.adapters.dropout.generators, self._resumed["generators"], strict=True):
                generator.set_state(state)


class _RecorderCallback(TrainerCallback):
    """Shows the factors after every optimizer step."""

    def __init__(self, trainer: PackTrainer, recorder: StepRecorder) -> None:
        self._trainer, self._recorder = trainer, recorder

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._recorder.record(state.global_step + 1, self._trainer.batches.running, self._trainer.adapters.factors)


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


class _CheckpointCallback(TrainerCallback):
    """Asks for a checkpoint when one is due, but not after the last step."""

    def __init__(self, checkpoints: PackCheckpoints) -> None:
        self._checkpoints = checkpoints

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._checkpoints.begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        is_last = control.should_training_stop or state.global_step >= state.max_steps
        control.should_save |= not is_last and self._checkpoints.is_due
