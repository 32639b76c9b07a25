"""TranslatorTrainer: what training a translator takes of Trainer, whatever the objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.training.arguments import GradTransformerTrainingArguments


def has_idle_parameters(config: GradTransformerConfig) -> bool:
    """Return whether some parameters may get no gradient, which several processes must be told of.

    Decoding one by one, no block is predicted from the last one: a kind of token that only the last block has is never
    read.
    """
    kinds = [block.kind for block in config.target_layout.blocks]
    return config.has_transformer and config.decoding == "autoregressive" and kinds[-1] not in kinds[:-1]


class ProcessSeed(TrainerCallback):
    """Lets every process draw noise, mixtures and examples of its own.

    By now the weights have been drawn, and the order of the updates fixed, alike in all processes. A training that
    goes on from a checkpoint takes the state of each process's generator from there, later than this.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Seed all processes but the first, whose draws are those of a training in one process."""
        if args.process_index > 0:
            torch.manual_seed(args.seed + args.process_index)


class TranslatorTrainer(Trainer):
    """Trainer for translators: bars on stderr, safetensors and JSON only; also in several processes.

    Attributes:
        is_trained: Set once training has ended, so that the last validation is known to be of the model that is kept.
    """

    model: GradTransformerModel
    args: GradTransformerTrainingArguments

    def __init__(
        self,
        model: GradTransformerModel,
        *,
        args: GradTransformerTrainingArguments,
        train_dataset: Dataset[dict[str, Tensor]],
        eval_dataset: Dataset[dict[str, Tensor]] | None,
        data_collator: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]],
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if args.push_to_hub:
            raise ConfigurationError(
                "got push_to_hub=True, but a trainer writes local checkpoints only. 'gradtx train' publishes."
            )
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = has_idle_parameters(model.config)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            callbacks=callbacks,
        )
        for printing in (PrinterCallback, ProgressCallback):  # both write to stdout, where the results go
            self.remove_callback(printing)
        self.add_callback(ProcessSeed())
        if not args.disable_tqdm and self.is_world_process_zero():
            self.add_callback(StepBar("training"))
        self.is_trained = False
        del self.model.config.use_cache  # Trainer sets it for language models; it would stay in config.json

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the estimate is made for language models' tokens."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors, and no pickled arguments beside them."""
        if self.args.should_save:
            self.model.save_pretrained(str(output_dir or self.args.output_dir), state_dict=state_dict)
