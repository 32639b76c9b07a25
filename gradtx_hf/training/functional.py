"""The functional objective: a generated adapter is judged by what the target does with it.

Each step draws source updates, generates their target updates, places them on the frozen target all at once, and
takes the loss that the shadow sets' own fine-tuning would take. No target run is needed for it: many source runs and
the public data suffice. The translator learns to be useful, not to repeat one of many equally good adapters.

Axes: B adapters, R examples of each, T tokens, N_S / N_T blocks, D_S / D_T size of the largest block. Source: ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback

from gradtx_hf.lora.stacked import AdapterStack
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.augmentation import add_input_noise
from gradtx_hf.training.base import TranslatorTrainer
from gradtx_hf.training.functional_data import FunctionalDataset
from gradtx_hf.updates import BlockLayout, decode_update


TEXT_KEYS = ("input_ids", "labels", "attention_mask")


class Start(Protocol):
    """What target updates are added to: an initial adapter, or the zeros of full-weight updates."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""

    @property
    def scales(self) -> Mapping[str, float]:
        """Module path to scale."""


class FunctionalObjective:
    """The loss of target updates by what the target does with them.

    Args:
        language_model: The target; frozen here.
        target_init: The adapter that updates are added to, or the start of full-weight updates.
        layout: What stands where in target tokens; all of the adapter's tensors.
        with_checkpointing: Whether the target recomputes its activations in the backward pass.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        target_init: Start,
        layout: BlockLayout,
        *,
        with_checkpointing: bool = False,
    ) -> None:
        language_model.requires_grad_(requires_grad=False)
        self.language_model = language_model
        self.start = {name: target_init.tensors[name].to(language_model.device).float() for name in layout.shapes}
        self._layout = layout
        self._stack = AdapterStack(language_model, scales=target_init.scales)
        if with_checkpointing:
            self._stack.recompute_activations()

    def losses(self, updates: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Return each update's loss on its own examples.

        Args:
            updates: Target tokens ``[B, N_T, D_T]``, in their own units; gradients flow into them.
            texts: ``input_ids``, ``labels`` and perhaps ``attention_mask``, ``[B, R, T]``.

        Returns:
            ``[B]``, in nats per labelled token.
        """
        moved = decode_update(updates, self._layout)
        factors = {name: self.start[name] + update for name, update in moved.items()}
        return self._stack.losses(factors, **{name: values.flatten(0, 1) for name, values in texts.items()})

    def loss_in_parts(self, updates: Tensor, texts: dict[str, Tensor], *, num_parts: int) -> Tensor:
        """Return the mean loss, taken over the examples part by part: the memory is that of one part.

        Value and gradient are those of ``losses(updates, texts).mean()`` where every part has as many labels.

        Args:
            updates: As in ``losses``.
            texts: As in ``losses``.
            num_parts: Parts, at most R.
        """
        if num_parts == 1:
            return self.losses(updates, texts).mean()
        leaf = updates.detach().requires_grad_()
        total, gradient = torch.zeros((), device=updates.device), torch.zeros_like(leaf)
        for part in zip(*(values.chunk(num_parts, dim=1) for values in texts.values()), strict=True):
            chunk = dict(zip(texts, part, strict=True))
            loss = self.losses(leaf, chunk).mean() * (part[0].shape[1] / texts["input_ids"].shape[1])
            gradient += torch.autograd.grad(loss, leaf)[0]
            total += loss.detach()
        linear = (updates * gradient).sum()  # whose gradient is that of the loss
        return linear + (total - linear).detach()


class FunctionalTrainer(TranslatorTrainer):
    """Train a translator by what the target does with the adapters that it generates.

    Args:
        model: The translator, with its statistics set.
        objective: The target, on the trainer's device.
        args: The arguments.
        train_dataset: Source updates with examples of their sets.
        eval_dataset: Held-out shadow sets; None only where ``eval_strategy`` is ``no``.
        callbacks: Further callbacks of Trainer.
    """

    def __init__(
        self,
        model: GradTransformerModel,
        *,
        objective: FunctionalObjective,
        args: GradTransformerTrainingArguments,
        train_dataset: FunctionalDataset,
        eval_dataset: FunctionalDataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=train_dataset.collate,
            callbacks=callbacks,
        )
        self._objective = objective
        self._untouched_loss: float | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's own signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the mean loss of the generated adapters, after noise on the source updates."""
        source = inputs["source_blocks"]
        if self.args.input_noise > 0:
            source = add_input_noise(source, std=self.model.source_std, noise=self.args.input_noise)
        output = model(source)
        updates = output.predicted_blocks
        loss = self._objective.loss_in_parts(updates, _texts(inputs), num_parts=self.args.target_batches)
        if self.args.parameter_weight > 0:
            loss = loss + self.args.parameter_weight * self._parameter_loss(updates, inputs["target_blocks"])
        return (loss, output) if return_outputs else loss

    def _parameter_loss(self, updates: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of paper Eq. 10 over the updates whose shadow set has a target run; 0 without any."""
        is_paired = targets.isfinite().flatten(1).all(dim=1)
        if not bool(is_paired.any()):
            return updates.sum() * 0.0
        return self.model.squared_errors(updates[is_paired], targets[is_paired]).mean()

    @torch.no_grad()
    def evaluate(  # type: ignore[override]  # one validation set, not a dictionary of several
        self,
        eval_dataset: Dataset[dict[str, Tensor]] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Validate on held-out shadow sets, as a client meets the translator: without noise, by generation.

        Args:
            eval_dataset: Updates to validate on; None: those of the constructor.
            ignore_keys: Not used.
            metric_key_prefix: Prefix of the keys.

        Returns:
            ``eval_loss`` of the generated adapters, and ``eval_untouched_loss`` of the target's initial adapter, both
            in nats per labelled token; ``eval_runtime`` in seconds.
        """
        begin = time.perf_counter()
        dataloader = self.get_eval_dataloader(eval_dataset)
        self.callback_handler.eval_dataloader = dataloader
        self.model.eval()
        is_known = eval_dataset is None and self._untouched_loss is not None  # of the same examples every time
        rows = []
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                updates = self.model.generate_updates(inputs["source_blocks"])
                judged = [updates] if is_known else [updates, torch.zeros_like(updates)]
                losses = [self._objective.losses(u, _texts(inputs)) for u in judged]
            rows.append(self.accelerator.gather_for_metrics(torch.stack(losses, dim=1)).double().cpu())  # [B, 1 or 2]
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        generated, *untouched = torch.cat(rows).mean(dim=0).tolist()
        untouched_loss = untouched[0] if untouched else self._untouched_loss
        if eval_dataset is None:
            self._untouched_loss = untouched_loss
        metrics = {"loss": generated, "untouched_loss": untouched_loss, "runtime": time.perf_counter() - begin}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _texts(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: inputs[name] for name in TEXT_KEYS if name in inputs}
