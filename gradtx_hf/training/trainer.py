"""GradTransformerTrainer: Trainer with validation of a translator in both of its modes.

Teacher forcing is what training minimises; generation is what a client gets. Both are validated, as errors relative
to a translator that always answers with the mean: 1.0 is what a constant achieves.

Axes: B batch, N_T blocks. Source: paper Eqs. 10 and 11; relative errors are ours.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from gradtx_hf.model import GradTransformerModel
from gradtx_hf.output import write_text
from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.augmentation import add_input_noise, mix_pairs
from gradtx_hf.training.base import TranslatorTrainer
from gradtx_hf.training.data import PairDataset, collate_pairs


BLOCK_ERRORS_FILE = "block_errors.json"


class GradTransformerTrainer(TranslatorTrainer):
    """Train a translator on pairs of updates (paper Eq. 10).

    Each validation also adds a line of errors by block to ``block_errors.json`` in the output folder; the one after
    training is marked as of the model that is kept.

    Args:
        model: The translator, with its statistics set.
        args: The arguments.
        train_dataset: Training pairs.
        eval_dataset: Validation pairs; None only where ``eval_strategy`` is ``no``.
        callbacks: Further callbacks of Trainer.
    """

    def __init__(
        self,
        model: GradTransformerModel,
        *,
        args: GradTransformerTrainingArguments,
        train_dataset: PairDataset,
        eval_dataset: PairDataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collate_pairs,
            callbacks=callbacks,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's own signature
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, object]:
        """Return the loss of a batch, after noise and mixing if they are asked for.

        Both draw from torch's own generator, whose state Trainer saves with each checkpoint.
        """
        source, target = inputs["source_blocks"], inputs["target_blocks"]
        if self.args.mixing > 0:
            source, target = mix_pairs(source, target, probability=self.args.mixing)
        if self.args.input_noise > 0:
            source = add_input_noise(source, std=self.model.source_std, noise=self.args.input_noise)
        changed = {"source_blocks": source, "target_blocks": target}
        return super().compute_loss(model, changed, return_outputs, num_items_in_batch)

    def evaluate(  # type: ignore[override]  # one validation set, not a dictionary of several
        self,
        eval_dataset: Dataset[dict[str, Tensor]] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Validate with teacher forcing and by generation.

        Args:
            eval_dataset: Pairs to validate on; None: those of the constructor.
            ignore_keys: Not used.
            metric_key_prefix: Prefix of the keys.

        Returns:
            ``eval_loss`` (paper Eq. 10) and ``eval_generated_loss``, in standardised units;
            ``eval_relative_error`` and ``eval_generated_relative_error``, the same divided by the loss of always
            answering with the mean; ``eval_runtime`` in seconds.
        """
        begin = time.perf_counter()
        forced, generated, constant = self._block_errors(eval_dataset).unbind()  # [N_T] each
        metrics = {
            "loss": float(forced.mean()),
            "generated_loss": float(generated.mean()),
            "relative_error": _ratio(forced.sum(), constant.sum()),
            "generated_relative_error": _ratio(generated.sum(), constant.sum()),
            "runtime": time.perf_counter() - begin,
        }
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        if self.is_world_process_zero():
            self._record_block_errors(forced / constant.clamp_min(1e-12), generated / constant.clamp_min(1e-12))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _block_errors(self, eval_dataset: Dataset[dict[str, Tensor]] | None) -> Tensor:
        """Return mean squared norms of block errors ``[3, N_T]``: teacher forced, generated, of the constant mean."""
        dataloader = self.get_eval_dataloader(eval_dataset)
        self.callback_handler.eval_dataloader = dataloader
        model = self.model
        model.eval()
        rows = []
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                forced = model(**inputs).predicted_blocks
                generated = model.generate_updates(inputs["source_blocks"])
            predictions = (forced, generated, model.target_mean)
            errors = torch.stack([model.squared_errors(p, inputs["target_blocks"]) for p in predictions], dim=1)
            rows.append(self.accelerator.gather_for_metrics(errors).double().cpu())  # [B, 3, N_T]
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return torch.cat(rows).mean(dim=0)

    def _record_block_errors(self, forced: Tensor, generated: Tensor) -> None:
        """Add relative errors by block ``[N_T]`` to the file, in place of what a resumed run wrote past this step."""
        path = Path(str(self.args.output_dir)) / BLOCK_ERRORS_FILE
        is_best_kept = self.is_trained and self.args.load_best_model_at_end and self.state.best_global_step is not None
        step = self.state.best_global_step if is_best_kept else self.state.global_step
        earlier = json.loads(path.read_text())["validations"] if path.exists() and self.state.global_step > 0 else []
        earlier = [e for e in earlier if not e["kept"] and (self.is_trained or e["step"] < step)]
        line = {
            "step": step,
            "kept": self.is_trained,
            "teacher_forced": forced.tolist(),
            "generated": generated.tolist(),
        }
        blocks = [f"{block.name} ({block.kind})" for block in self.model.target_layout.blocks]
        values = {"blocks": blocks, "validations": [*earlier, line]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values))


def _ratio(error: Tensor, constant: Tensor) -> float:
    return float(error / constant.clamp_min(1e-12))
