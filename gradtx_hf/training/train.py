"""train_translator: from an update store to a trained translator.

Source: paper Sec. 4, phase 2.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import set_seed

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel, TokenStatistics
from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.data import PairDataset, PairSplit, PairStore, collate_pairs, split_by_shadow_set
from gradtx_hf.training.trainer import BLOCK_ERRORS_FILE, GradTransformerTrainer


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainedTranslator:
    """A trained translator and how it went.

    Attributes:
        model: The translator, in evaluation mode, on the device it was trained on.
        metrics: Errors on the validation pairs (see ``GradTransformerTrainer.evaluate``); empty without validation.
        train_loss: Mean loss over training (paper Eq. 10, standardised units).
        num_steps: Steps (optimizer updates).
        block_errors: Blocks and, by validation, each block's relative errors in both modes; the last is the model's.
        split: The pairs that were trained and validated on.
        seconds: Duration, with statistics and validation.
    """

    model: GradTransformerModel
    metrics: dict[str, float]
    train_loss: float
    num_steps: int
    block_errors: dict[str, Any]
    split: PairSplit
    seconds: float


def train_translator(
    store: PairStore,
    arguments: GradTransformerTrainingArguments,
    *,
    source_base_model: str | None = None,
    source_base_revision: str | None = None,
    target_base_model: str | None = None,
    target_base_revision: str | None = None,
    start_distance_limit: float | None = None,
) -> TrainedTranslator:
    """Train a translator on the pairs of a store.

    The statistics of the training pairs take one pass over the store, before the epochs of training.
    ``arguments.resume_from_checkpoint`` goes on where a checkpoint stopped.

    Args:
        store: Pairs of source and target updates.
        arguments: The arguments; checkpoints and ``block_errors.json`` go to its ``output_dir``.
        source_base_model: Repository or path of the source language model, for the configuration.
        source_base_revision: Its revision.
        target_base_model: Repository or path of the target language model, for the configuration.
        target_base_revision: Its revision.
        start_distance_limit: Largest distance to the start of an adapter that may be translated, for the
            configuration.

    Raises:
        DataError: If the store holds no pair.
        ConfigurationError: If validation is asked for and no shadow set is left for it, or a value cannot be used.
    """
    begin = time.perf_counter()
    split = split_by_shadow_set(store, validation_share=arguments.validation_share, seed=arguments.seed)
    if arguments.eval_strategy != "no" and not split.validation:
        raise ConfigurationError(
            "got no shadow set to validate on, expected at least two shadow sets and validation_share > 0. "
            "Curate more, or set eval_strategy and save_strategy to 'no'."
        )
    provenance = {
        "source_base_model": source_base_model,
        "source_base_revision": source_base_revision,
        "target_base_model": target_base_model,
        "target_base_revision": target_base_revision,
        "start_distance_limit": start_distance_limit,
    }
    set_seed(arguments.seed)  # the weights are drawn before Trainer seeds
    model = _build_model(store, arguments, provenance)
    train_dataset = PairDataset(store, split.train)
    if arguments.resume_from_checkpoint is None:
        _set_statistics(model, train_dataset, batch_size=arguments.per_device_train_batch_size)
    trainer = GradTransformerTrainer(
        model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=PairDataset(store, split.validation) if split.validation else None,
    )
    logger.info("training on %d pairs, validating on %d", len(split.train), len(split.validation))
    output = trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.is_trained = True
    metrics = trainer.evaluate() if split.validation else {}
    model.eval()
    return TrainedTranslator(
        model=model,
        metrics=metrics,
        train_loss=output.training_loss,
        num_steps=output.global_step,
        block_errors=_read_block_errors(Path(str(arguments.output_dir))) if split.validation else {},
        split=split,
        seconds=time.perf_counter() - begin,
    )


def _read_block_errors(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / BLOCK_ERRORS_FILE).read_text(encoding="utf-8"))
    return values


def _build_model(
    store: PairStore, arguments: GradTransformerTrainingArguments, provenance: dict[str, str | float | None]
) -> GradTransformerModel:
    """Build the translator from scratch, or around the stacks of a pretrained T5."""
    layouts = (store.source_layout, store.target_layout)
    if arguments.from_t5 is None:
        config = GradTransformerConfig.from_layouts(*layouts, t5=arguments.t5_fields, **provenance)  # type: ignore[arg-type]  # a field's name to its value
        return GradTransformerModel(config)
    model = GradTransformerModel.from_t5(
        arguments.from_t5, source_layout=layouts[0], target_layout=layouts[1], revision=arguments.from_t5_revision
    )
    model.config.update(provenance)
    return model


def _set_statistics(model: GradTransformerModel, dataset: PairDataset, *, batch_size: int) -> None:
    """Take the statistics of the training pairs in one pass."""
    source, target = TokenStatistics(model.source_layout), TokenStatistics(model.target_layout)
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collate_pairs):
        source.update(batch["source_blocks"])
        target.update(batch["target_blocks"])
    (source_mean, source_std), (target_mean, target_std) = source.result(), target.result()
    model.set_statistics(source_mean=source_mean, source_std=source_std, target_mean=target_mean, target_std=target_std)
