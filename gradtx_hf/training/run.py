"""``train``: from a curated store's folder to a translator's folder.

Source: paper Sec. 4, phase 2; partitions: paper Sec. 5; the distance limit is ours.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradtx_hf.errors import ConfigurationError, DataError, GradTxError, OutputExistsError
from gradtx_hf.hub.cards import installed_versions
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.output import require_new_folder, write_json
from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.checkpoint import WORK_FILE, last_checkpoint
from gradtx_hf.training.hub_checkpoint import HubCheckpoints, PushCheckpoints, restore_checkpoints
from gradtx_hf.training.identity import training_identity
from gradtx_hf.training.launched import require_all_processes
from gradtx_hf.training.publishing import describe_store, destination_of, publish_trained, require_place
from gradtx_hf.training.target import FunctionalTarget, load_functional_target
from gradtx_hf.training.train import Provenance, TrainedTranslator, train_translator
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, InputDistance, PeftTranslator
from gradtx_hf.updates import BlockLayout, UpdateVector, align_adapter
from gradtx_hf.updates.partition import WHOLE, Partition, partition_store
from gradtx_hf.updates.store import UpdateStore


logger = logging.getLogger(__name__)

LOGS_FOLDER = "runs"
"""Where Trainer lets TensorBoard write, in its own folder."""
NUM_MEASURED_SETS = 64
"""Shadow sets whose distance to the start is measured; all where there are fewer."""


@dataclass
class TranslatorArguments(GradTransformerTrainingArguments):
    """What ``gradtx train`` takes: a store, how to take updates apart, and all of the trainer's arguments.

    ``output_dir`` is the translator's folder; checkpoints lie in a folder beside it until training has ended, and the
    same command goes on from them. With ``push_to_hub`` the finished translator goes to the repository
    ``hub_model_id``, a new one being private unless ``hub_private_repo`` is false; with ``hub_strategy: checkpoint``
    checkpoints go to its branch ``checkpoint``, from where another machine goes on.
    """

    store: str = ""
    """Folder of the curated store."""

    partition: Partition = "block"
    """``block``: one translator for whole blocks. ``projection``: one per projection, outputs merged. ``reversed``."""

    def __post_init__(self) -> None:
        """Check what is ours, then what is the trainer's."""
        for name in ("store", "output_dir"):
            if not getattr(self, name):
                flag = name.replace("_", "-")
                raise ConfigurationError(f"'{name}' is missing. Give it in --config, or as --{flag}.")
        if self.partition == "projection" and self.objective == "functional":
            raise ConfigurationError(
                "got partition 'projection' with objective 'functional', which judges all of an adapter at once. Use "
                "partition 'block', or objective 'parameter'."
            )
        try:
            super().__post_init__()
        except GradTxError:
            raise
        except (ImportError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(f"transformers refuses these training arguments: {reason}") from error


def train(arguments: TranslatorArguments) -> PeftTranslator:
    """Train a translator and write its folder, with ``training.json`` (arguments and errors) in it.

    In several processes, as ``accelerate launch`` starts them, every one reads the store and returns the translator,
    and the main one alone writes; they must share a file system.

    Raises:
        OutputExistsError: If the output folder exists and is not empty, or another training was begun for it.
        StoreError: If the store is not complete, or a shard is damaged.
        ConfigurationError: If a value cannot be used, or fewer processes run than a launcher was asked for.
        HubError: If it is to be published and cannot be; once trained, the folder is there all the same.
    """
    processes = arguments.distributed_state  # accelerate's, also where there is one process alone
    require_all_processes(arguments.world_size)
    output_dir = require_new_folder(str(arguments.output_dir))
    work_dir = output_dir.with_name(f"{output_dir.name}-checkpoints")
    store = UpdateStore.open(arguments.store)
    store.verify()
    inits = {name: load_adapter(store.folder / name) for name in (SOURCE_INIT, TARGET_INIT)}
    parts = partition_store(store, arguments.partition)
    provenance = _provenance(store, inits)
    destination = destination_of(arguments)
    if destination is not None:
        require_place(destination, (inits[SOURCE_INIT].base_model, inits[TARGET_INIT].base_model))
    on_hub = HubCheckpoints.of(arguments, work_dir, parts)
    claim = _claim(work_dir, arguments, store)
    processes.wait_for_everyone()  # none has yet written anything, so that all refuse alike
    if processes.is_main_process:
        _restore(arguments, on_hub, work_dir, parts=parts, claim=claim)
        work_dir.mkdir(parents=True, exist_ok=True)
        write_json(work_dir / WORK_FILE, claim)
    processes.wait_for_everyone()
    try:
        trained = {
            name: train_translator(
                view,
                _part_arguments(arguments, work_dir / name if name else work_dir),
                provenance=provenance,
                target=_load_target(store, inits[TARGET_INIT], view.target_layout, arguments),
                callbacks=[] if on_hub is None else [PushCheckpoints(on_hub)],
            )
            for name, view in parts.items()
        }
    except GradTxError:
        if not _has_checkpoint(work_dir):
            shutil.rmtree(work_dir, ignore_errors=True)
        raise
    models = {name: result.model.cpu() for name, result in trained.items()}
    input_distance = _input_distance(store, trained, is_main=processes.is_main_process)
    translator = PeftTranslator(
        models.get(WHOLE, models),
        inits[SOURCE_INIT],
        inits[TARGET_INIT],
        name=str(output_dir),
        input_distance=input_distance,
        training=_record(arguments, store, trained, input_distance),
    )
    if processes.is_main_process:
        translator.save_pretrained(output_dir)
        _keep_logs(work_dir, output_dir)
        shutil.rmtree(work_dir, ignore_errors=True)
        logger.info("wrote the translator to %s", output_dir)
    processes.wait_for_everyone()
    if destination is not None and processes.is_main_process:
        publish_trained(translator, destination)
        if on_hub is not None:
            on_hub.remove()
    return translator


def _provenance(store: UpdateStore, inits: Mapping[str, Adapter]) -> Provenance:
    source, target = inits[SOURCE_INIT], inits[TARGET_INIT]
    return Provenance(
        source_base_model=source.base_model,
        source_base_revision=source.config.revision,
        target_base_model=target.base_model,
        target_base_revision=target.config.revision,
        start_distance_limit=start_distance_limit(store, source),
    )


def _load_target(
    store: UpdateStore, target_init: Adapter, layout: BlockLayout, arguments: TranslatorArguments
) -> FunctionalTarget | None:
    if arguments.objective != "functional":
        return None
    return load_functional_target(
        store,
        target_init,
        layout=layout,
        device=arguments.device,
        with_checkpointing=arguments.target_checkpointing,
    )


def _input_distance(
    store: UpdateStore, trained: Mapping[str, TrainedTranslator], *, is_main: bool
) -> InputDistance | None:
    """Fit the input distance to the shadow sets that were trained on; None, with a note, where it cannot be done."""
    split = next(iter(trained.values())).split  # that of all parts
    fit_sets, held_out_sets = (sorted({k for k, _ in side}) for side in (split.train, split.validation))
    try:
        return InputDistance.fit(store, fit_sets=fit_sets, held_out_sets=held_out_sets)
    except DataError as error:
        if is_main:
            logger.warning("the translator will not warn of adapters that lie off the map: %s", error)
        return None


def start_distance_limit(store: UpdateStore, source_init: Adapter) -> float:
    """Return the largest distance to the start that is accepted: halfway between the farthest shadow and 1.

    Args:
        store: The store; every shadow set's last source update is measured, or ``NUM_MEASURED_SETS`` spread over it.
        source_init: The start.

    Returns:
        A limit in (0, 1] for ``Alignment.start_distance``; adapters that began elsewhere lie near 1.
    """
    step = max(1, store.num_shadow_sets // NUM_MEASURED_SETS)
    scales = source_init.scales
    farthest = 0.0
    for k in range(0, store.num_shadow_sets, step):
        update = UpdateVector(store.read("source", k)[-1], store.source_layout)
        state = update.added_to(source_init.tensors)
        alignment = align_adapter(state, source_init.tensors, scales=scales, start_scales=scales)
        farthest = max(farthest, alignment.start_distance)
    return (1 + farthest) / 2


def _claim(work_dir: Path, arguments: TranslatorArguments, store: UpdateStore) -> dict[str, Any]:
    """Return what the checkpoints will be of, and check that those that are there are of this training."""
    claim = training_identity(arguments, store)
    path = work_dir / WORK_FILE
    if not path.is_file():
        require_new_folder(work_dir)
    elif _has_checkpoint(work_dir) and json.loads(path.read_text(encoding="utf-8")) != claim:
        raise OutputExistsError(
            f"'{work_dir}' holds checkpoints of another training. Give its arguments again to go on with it, "
            "remove the folder, or name another output_dir."
        )
    return claim


def _restore(
    arguments: TranslatorArguments,
    on_hub: HubCheckpoints | None,
    work_dir: Path,
    *,
    parts: Iterable[str],
    claim: dict[str, Any],
) -> None:
    """Fetch the checkpoints that the training is to go on from, where they lie on the Hub and none lies here."""
    newest = None if on_hub is None else on_hub.newest()  # asked also where it is not needed: a refusal comes now
    if any(last_checkpoint(work_dir / part) for part in parts):
        return
    resumed = arguments.resume_from_checkpoint
    name = None if on_hub is None or newest is None else f"{on_hub.destination.repo_id}@{newest}"
    if resumed is not None:
        name = None if Path(resumed).exists() else resumed
    if name is not None:
        restore_checkpoints(name, work_dir, parts=parts, identity=claim, token=arguments.hub_token)


def _keep_logs(work_dir: Path, output_dir: Path) -> None:
    """Move what TensorBoard wrote, if it did, from beside the checkpoints into the translator's folder, by part."""
    for logs in sorted(work_dir.rglob(LOGS_FOLDER)):
        kept = output_dir / LOGS_FOLDER / logs.parent.relative_to(work_dir)
        kept.parent.mkdir(exist_ok=True)
        shutil.move(logs, kept)


def _has_checkpoint(work_dir: Path) -> bool:
    return any(work_dir.rglob("checkpoint-*"))


def _part_arguments(arguments: TranslatorArguments, work_dir: Path) -> GradTransformerTrainingArguments:
    """Return one part's trainer arguments, with its own checkpoint folder, going on from its last checkpoint."""
    values = {f.name: getattr(arguments, f.name) for f in fields(GradTransformerTrainingArguments) if f.init}
    resumed = arguments.resume_from_checkpoint
    last = last_checkpoint(work_dir) or (Path(resumed) if resumed is not None and Path(resumed).exists() else None)
    if last is not None and arguments.should_log:
        logger.info("going on from %s", last)
    values |= {
        "output_dir": str(work_dir),
        "resume_from_checkpoint": None if last is None else str(last),
        "push_to_hub": False,  # Trainer's own pushes are pickles
    }
    return GradTransformerTrainingArguments(**values)


def _record(
    arguments: TranslatorArguments,
    store: UpdateStore,
    trained: Mapping[str, TrainedTranslator],
    input_distance: InputDistance | None,
) -> dict[str, Any]:
    """Return training.json: arguments, data, versions and errors, as JSON values."""
    values = {
        "arguments": arguments.to_dict(),
        "store": describe_store(store),
        "versions": installed_versions(("gradtx-hf", "torch", "transformers", "peft")),
        "num_processes": arguments.world_size,
        "input_distance_limit": None if input_distance is None else input_distance.limit,
        "parts": {
            name or "whole": {
                "metrics": result.metrics,
                "block_errors": result.block_errors,
                "train_loss": result.train_loss,
                "num_steps": result.num_steps,
                "num_training_updates": len(result.split.train),
                "num_target_runs": result.num_target_runs,
                "history": result.history,
                "validation_shadow_sets": sorted({pair[0] for pair in result.split.validation}),
                "seconds": round(result.seconds, 1),
            }
            for name, result in trained.items()
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))  # as a folder's would be
    return plain
