"""train_translator: from an update store to a trained translator, by either objective.

Source: paper Sec. 4, phase 2; the functional objective is ours.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.base import TranslatorTrainer
from gradtx_hf.training.data import Pair, PairDataset, PairSplit, PairStore, split_by_shadow_set
from gradtx_hf.training.functional import FunctionalTrainer
from gradtx_hf.training.functional_data import FunctionalDataset
from gradtx_hf.training.statistics import set_statistics
from gradtx_hf.training.target import FunctionalTarget
from gradtx_hf.training.trainer import BLOCK_ERRORS_FILE, GradTransformerTrainer
from gradtx_hf.training.whitening import whiten_linear_path


logger = logging.getLogger(__name__)

NUM_VALIDATION_EXAMPLES = 16
"""Examples of a held-out shadow set on which the functional objective validates; always the same."""


@dataclass(frozen=True)
class Provenance:
    """What a translator's configuration says of its pair of language models; see GradTransformerConfig."""

    source_base_model: str | None = None
    source_base_revision: str | None = None
    target_base_model: str | None = None
    target_base_revision: str | None = None
    start_distance_limit: float | None = None


@dataclass(frozen=True, eq=False)
class TrainedTranslator:
    """A trained translator and how it went.

    Attributes:
        model: The translator, in evaluation mode, on the device it was trained on.
        metrics: Errors on the validation pairs (see the trainers' ``evaluate``); empty without validation.
        train_loss: Mean loss over training, in the objective's units.
        num_steps: Steps (optimizer updates).
        block_errors: For the objective ``parameter``: blocks and, by validation, each block's relative errors in both
            modes; the last is the model's.
        split: The updates that were trained and validated on.
        num_target_runs: Target runs that the mean and scale of the output were taken from.
        history: Trainer's log: losses and learning rates by step.
        seconds: Duration, with statistics and validation.
    """

    model: GradTransformerModel
    metrics: dict[str, float]
    train_loss: float
    num_steps: int
    block_errors: dict[str, Any]
    split: PairSplit
    num_target_runs: int
    history: list[dict[str, float]]
    seconds: float


def train_translator(
    store: PairStore,
    arguments: GradTransformerTrainingArguments,
    *,
    provenance: Provenance | None = None,
    target: FunctionalTarget | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedTranslator:
    """Train a translator on the updates of a store.

    The statistics of the updates take one pass over the store, before training.
    ``arguments.resume_from_checkpoint`` goes on where a checkpoint stopped. Several processes, as ``accelerate
    launch`` starts them, each read the store and take their share of every batch.

    Args:
        store: Source updates, and target updates of all or some of the shadow sets.
        arguments: The arguments; checkpoints and ``block_errors.json`` go to its ``output_dir``.
        provenance: What the configuration is to say of the pair of language models.
        target: The frozen target and its texts; for the objective ``functional``.
        callbacks: Further callbacks of Trainer.

    Raises:
        DataError: If the store holds no pair, and the objective needs pairs.
        ConfigurationError: If validation is asked for and no shadow set is left for it, a value cannot be used, or
            the training diverged.
    """
    begin = time.perf_counter()
    updates = _updates(store, arguments)
    split = split_by_shadow_set(updates, validation_share=arguments.validation_share, seed=arguments.seed)
    if arguments.eval_strategy != "no" and not split.validation:
        raise ConfigurationError(
            "got no shadow set to validate on, expected at least two shadow sets and validation_share > 0. "
            "Curate more, or set eval_strategy and save_strategy to 'no'."
        )
    set_seed(arguments.seed)  # the weights are drawn before Trainer seeds
    model = _build_model(store, arguments, provenance or Provenance(), split=split)
    num_target_runs = 0
    if arguments.standardise:
        num_target_runs = set_statistics(
            model, store, source_snapshots=split.train, num_target_runs=arguments.num_target_runs
        )
    if arguments.whiten:
        whiten_linear_path(model, store, split.train, noise=arguments.input_noise)
    trainer = _build_trainer(model, store, arguments, split=split, target=target)
    for callback in callbacks:
        trainer.add_callback(callback)
    if arguments.should_log:
        logger.info("training on %d updates, validating on %d", len(split.train), len(split.validation))
    output = trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.is_trained = True
    _require_finite(model, arguments)
    metrics = trainer.evaluate() if split.validation else {}
    trainer.accelerator.wait_for_everyone()  # the main process writes the block errors
    model.eval()
    return TrainedTranslator(
        model=model,
        metrics=metrics,
        train_loss=output.training_loss,
        num_steps=output.global_step,
        block_errors=_read_block_errors(Path(str(arguments.output_dir))),
        split=split,
        num_target_runs=num_target_runs,
        history=trainer.state.log_history,
        seconds=time.perf_counter() - begin,
    )


def _updates(store: PairStore, arguments: GradTransformerTrainingArguments) -> list[Pair]:
    """Return the updates that an objective can use: all, or those whose shadow set has a target run."""
    if arguments.objective == "functional":
        return store.source_snapshots
    num_paired, num_sets = len(store.shadow_sets("target")), store.num_shadow_sets
    if 0 < num_paired < num_sets and arguments.should_log:
        logger.warning(
            "training on the %d of %d shadow sets that have a target run; curate with num_target_runs: null for all",
            num_paired,
            num_sets,
        )
    return store.pairs


def _build_trainer(
    model: GradTransformerModel,
    store: PairStore,
    arguments: GradTransformerTrainingArguments,
    *,
    split: PairSplit,
    target: FunctionalTarget | None,
) -> TranslatorTrainer:
    if arguments.objective == "parameter":
        return GradTransformerTrainer(
            model,
            args=arguments,
            train_dataset=PairDataset(store, split.train),
            eval_dataset=PairDataset(store, split.validation) if split.validation else None,
        )
    if target is None:
        raise ConfigurationError("got no target, expected one: the objective 'functional' places adapters on it.")
    if arguments.parameter_weight > 0 and not _paired(store, split):
        raise ConfigurationError(
            f"got parameter_weight={arguments.parameter_weight:g}, but no shadow set to train on has a target run. Set "
            "it to 0, or curate with num_target_runs."
        )
    validation = FunctionalDataset(
        store, split.validation, target.texts, num_examples=NUM_VALIDATION_EXAMPLES, is_fixed=True
    )
    return FunctionalTrainer(
        model,
        objective=target.objective,
        args=arguments,
        train_dataset=FunctionalDataset(
            store,
            split.train,
            target.texts,
            num_examples=arguments.examples_per_adapter,
            with_targets=arguments.parameter_weight > 0,
        ),
        eval_dataset=validation if split.validation else None,
    )


def _require_finite(model: GradTransformerModel, arguments: GradTransformerTrainingArguments) -> None:
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ConfigurationError(
                f"the training diverged: '{name}' holds NaN or infinite values. Lower learning_rate (it was "
                f"{arguments.learning_rate:g}), and remove the checkpoints ('{arguments.output_dir}')."
            )


def _paired(store: PairStore, split: PairSplit) -> bool:
    """Return whether some shadow set to train on has a target run."""
    trained_on = {shadow_set for shadow_set, _ in split.train}
    return any(shadow_set in trained_on for shadow_set, _ in store.pairs)


def _read_block_errors(folder: Path) -> dict[str, Any]:
    path = folder / BLOCK_ERRORS_FILE
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values


def _build_model(
    store: PairStore, arguments: GradTransformerTrainingArguments, provenance: Provenance, *, split: PairSplit
) -> GradTransformerModel:
    """Build the translator from scratch, or around the stacks of a pretrained T5."""
    architecture: dict[str, Any] = {
        "source_layout": store.source_layout,
        "target_layout": store.target_layout,
        "linear_rank": arguments.linear_rank,
        "decoding": arguments.decoding,
        "block_positions": arguments.block_positions,
        "learned_scale": arguments.num_target_runs == 0 or not _paired(store, split),
    }
    if arguments.from_t5 is None:
        config = GradTransformerConfig.from_layouts(
            t5=arguments.t5_fields, has_transformer=arguments.has_transformer, **architecture, **asdict(provenance)
        )
        return GradTransformerModel(config)
    model = GradTransformerModel.from_t5(arguments.from_t5, revision=arguments.from_t5_revision, **architecture)
    model.config.update(asdict(provenance))
    return model
