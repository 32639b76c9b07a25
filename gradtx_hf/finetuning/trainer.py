"""One fine-tuning run of one adapter: our SFTTrainer subclass, the convergence rule, and ``fine_tune``.

A run on the CPU with one thread depends on the adapter's values, the data, the recipe and the seed alone: the same
bits come out whatever the process did before. Nothing is saved, logged, reported or sent anywhere.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.finetuning.recipe import FineTuningRecipe


@dataclass(frozen=True)
class FineTuningResult:
    """What one run came to.

    Attributes:
        num_steps: Optimizer steps taken.
        final_loss: Mean of the last ``convergence_window`` steps' losses, in nats per completion token.
        converged: Whether the run stopped because its loss no longer improved.
    """

    num_steps: int
    final_loss: float
    converged: bool


class AdapterSFTTrainer(SFTTrainer):
    """SFTTrainer for adapters and prepared data: plain logits, a mean over completion tokens in float32.

    Attributes:
        step_losses: Loss of every optimizer step so far, in nats per completion token; scalars on the model's device.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - the options of SFTTrainer
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        # A new accelerator holds nothing to free; its garbage collection would take 0.2 s of every run.
        self.accelerator.free_memory = lambda *objects: objects
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of all accumulated batches
        self.step_losses: list[Tensor] = []

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the summed loss of a batch's completion tokens over their number in the whole step.

        Args:
            model: The model in training.
            inputs: ``input_ids``, ``labels`` and ``attention_mask``, each ``[B, T]``.
            return_outputs: Return (loss, outputs).
            num_items_in_batch: Completion tokens of all batches of this optimizer step; this batch's own if None.
        """
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        targets = inputs["labels"][:, 1:]
        loss = self.summed_loss(outputs.logits[:, :-1], targets, inputs)
        loss = loss / ((targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
        if model.training:
            self._record(loss.detach())
        return (loss, outputs) if return_outputs else loss

    def summed_loss(self, logits: Tensor, targets: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of a batch's token losses, in nats: what trainers of another objective replace.

        Args:
            logits: ``[B, T - 1, V]``.
            targets: The token that each position is to predict ``[B, T - 1]``, or -100.
            inputs: The batch, as ``compute_loss`` gets it.
        """
        has_loss = targets != IGNORED
        return cross_entropy(logits[has_loss].float(), targets[has_loss], reduction="sum")

    def _record(self, loss: Tensor) -> None:
        if len(self.step_losses) == self.state.global_step:
            self.step_losses.append(loss)
        else:
            self.step_losses[-1] = self.step_losses[-1] + loss

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Return 0: walking all parameters takes a tenth of a tiny model's step."""
        return 0

    def _send_telemetry(self) -> None:
        """Send nothing: TRL would tell Hugging Face the kind of model and data."""


class ConvergenceCallback(TrainerCallback):
    """Stops a run once its loss no longer improves.

    Attributes:
        converged: Whether it did.
    """

    def __init__(self, step_losses: Sequence[Tensor], *, window: int, threshold: float, patience: int) -> None:
        self.converged = False
        self._step_losses = step_losses
        self._window = window
        self._threshold = threshold
        self._patience = patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Check at the end of every window."""
        if state.global_step % self._window == 0:
            self.converged = has_converged(
                torch.stack(list(self._step_losses)).tolist(),
                window=self._window,
                threshold=self._threshold,
                patience=self._patience,
            )
            control.should_training_stop |= self.converged


def has_converged(losses: Sequence[float], *, window: int, threshold: float, patience: int) -> bool:
    """Return whether the mean loss improved too little, several windows in a row.

    Args:
        losses: Loss of every optimizer step so far.
        window: Steps per mean; windows follow each other without overlap.
        threshold: Least improvement over the window before, relative to it.
        patience: How many windows in a row must fall short.
    """
    means = [math.fsum(losses[end - window : end]) / window for end in range(window, len(losses) + 1, window)][
        -patience - 1 :
    ]
    if len(means) <= patience:
        return False
    return all(now > before * (1 - threshold) for before, now in itertools.pairwise(means))


def fine_tune(  # noqa: PLR0913 - one keyword for each thing that takes part
    model: PeftModel,
    examples: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
    show_progress: bool = False,
    make_trainer: Callable[..., AdapterSFTTrainer] = AdapterSFTTrainer,
) -> FineTuningResult:
    """Fine-tune a model's active adapter, in place, from the values that it has.

    Args:
        model: A model with a trainable LoRA adapter; left in evaluation mode, its base untouched.
        examples: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``.
        tokenizer: The model's tokenizer; for padding.
        recipe: How to train.
        seed: Seed of the order of the data and of dropout; the global random states are set to it.
        callbacks: Further callbacks, such as recorders of snapshots.
        show_progress: Show a bar of the steps on stderr.
        make_trainer: What makes the trainer, where the objective is another.

    Raises:
        ConfigurationError: If nothing is trainable, or the loss did not stay finite.
        DataError: If the examples are not tokenized.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigurationError("the model has nothing to train. Load its adapter with is_trainable=True.")
    if recipe.row_noise:
        raise ConfigurationError("row_noise is for shadow runs. A client's own run is made private with privacy.")
    require_tokens(examples)
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch, restored(model):
        trainer = make_trainer(
            model=model,
            args=training_arguments(recipe, seed=seed, scratch=scratch),
            train_dataset=examples,
            processing_class=tokenizer,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=pad_token_id(tokenizer)),
            callbacks=[*callbacks, *([StepBar("fine-tuning")] if show_progress else [])],
        )
        convergence = ConvergenceCallback(
            trainer.step_losses,
            window=recipe.convergence_window,
            threshold=recipe.convergence_threshold,
            patience=recipe.convergence_patience,
        )
        if recipe.until_converged:
            trainer.add_callback(convergence)
        trainer.train()
    return summarise_run(trainer.step_losses, recipe, converged=convergence.converged)


def require_tokens(examples: Dataset) -> None:
    """Check that examples are tokenized.

    Raises:
        DataError: If they are not.
    """
    if not {"input_ids", "labels"} <= set(examples.column_names):
        raise DataError(
            f"got columns {', '.join(examples.column_names)}, expected input_ids and labels. "
            "Prepare the examples with tokenize_examples."
        )


def training_arguments(recipe: FineTuningRecipe, *, seed: int, scratch: str) -> SFTConfig:
    """Return a recipe as the arguments of a trainer that logs, saves and reports nothing.

    Args:
        recipe: How to train.
        seed: Seed of the order of the data and of dropout.
        scratch: A folder that exists for as long as the trainer.

    Raises:
        ConfigurationError: If the recipe is of several runs.
    """
    if recipe.num_parts != 1:
        raise ConfigurationError(
            f"got num_parts={recipe.num_parts} for one run, expected 1. Several are for clients: fine_tune_parts, or "
            "gradtx client."
        )
    has_gpu = torch.cuda.is_available()
    is_linear = recipe.schedule == "linear"
    return SFTConfig(
        output_dir=scratch,
        max_steps=recipe.num_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="polynomial" if is_linear else "constant_with_warmup",
        lr_scheduler_kwargs=(
            {"lr_end": recipe.learning_rate * recipe.final_learning_rate_share, "power": 1.0} if is_linear else {}
        ),
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        max_length=recipe.max_length,
        seed=seed,
        use_cpu=not has_gpu,
        bf16=has_gpu and torch.cuda.is_bf16_supported(),
        activation_checkpointing=False,
        average_tokens_across_devices=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=has_gpu,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


@contextmanager
def restored(model: PeftModel) -> Iterator[None]:
    """Undo what every trainer leaves on a model: wrapped forwards, which would nest run after run, and flags."""
    base = model.get_base_model()
    wrapped = {module: vars(module).get("forward") for module in (model, base)}
    use_cache = model.config.use_cache
    try:
        yield
    finally:
        for module, forward in wrapped.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
        model.config.use_cache = use_cache
        model.zero_grad(set_to_none=True)
        model.eval()


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return what to pad with; padding is masked, so any token serves."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def summarise_run(step_losses: Sequence[Tensor], recipe: FineTuningRecipe, *, converged: bool) -> FineTuningResult:
    """Return what a run came to.

    Args:
        step_losses: Loss of every optimizer step, scalars in nats per completion token.
        recipe: How it was trained.
        converged: Whether it stopped because its loss no longer improved.

    Raises:
        ConfigurationError: If the loss did not stay finite.
    """
    losses = torch.stack(list(step_losses)).tolist()
    last = losses[-recipe.convergence_window :]
    final_loss = math.fsum(last) / len(last)
    if not math.isfinite(final_loss):
        first = next(i for i, loss in enumerate(losses, start=1) if not math.isfinite(loss))
        raise ConfigurationError(
            f"the loss is no longer finite from step {first} on. Lower learning_rate={recipe.learning_rate:g}, or "
            "raise warmup_steps."
        )
    return FineTuningResult(num_steps=len(losses), final_loss=final_loss, converged=converged)
