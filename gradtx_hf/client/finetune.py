"""What a client runs: fine-tune the initial adapter on private data, and write a PEFT adapter folder.

The folder holds PEFT's two files and its card, of a private run also what it spent, and nothing else: no data, no paths
of data, no checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback

from gradtx_hf.client.ledger import Ledger
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import (
    DataSource,
    FineTuningRecipe,
    PackedRun,
    PrivacySettings,
    PrivacyStatement,
    fine_tune,
    fine_tune_parts,
    load_examples,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.hub import resolve_folder
from gradtx_hf.hub.cards import installed_versions
from gradtx_hf.lora import is_adapter_folder, load_adapter
from gradtx_hf.output import new_folder, require_new_folder, write_json, write_text
from gradtx_hf.translation import SOURCE_INIT
from gradtx_hf.translation.records import PRIVACY_FILE, privacy_text


logger = logging.getLogger(__name__)
WORK_DIR = "~/.gradtx"
LIBRARIES = ("gradtx-hf", "torch", "transformers", "peft", "trl", "opacus")


@dataclass(frozen=True)
class ClientResult:
    """What a client's run came to.

    Attributes:
        num_steps: Optimizer steps taken.
        final_loss: Mean of the last ``convergence_window`` steps' losses, in nats per completion token; for the owner
            of the data alone if the run is to be private, and None if none of its last steps drew a row.
        converged: Whether the run stopped because its loss no longer improved.
        privacy: What ``privacy.json`` states; None for a run that is not private.
    """

    num_steps: int
    final_loss: float | None
    converged: bool
    privacy: Mapping[str, Any] | None


def fine_tune_client(  # noqa: PLR0913 - one keyword for each thing that a client decides
    init: str | Path,
    data: DataSource | Dataset,
    *,
    recipe: FineTuningRecipe,
    output_dir: str | Path,
    base_model: str | None = None,
    seed: int = 0,
    privacy: PrivacySettings | None = None,
    work_dir: str | Path = WORK_DIR,
    callbacks: Sequence[TrainerCallback] = (),
    show_progress: bool = False,
) -> ClientResult:
    """Fine-tune a translator's initial adapter on one client's data.

    Args:
        init: A translator, whose ``source_init`` is taken, or an initial adapter itself: a folder, or a Hub repository
            ``owner/name[@revision]``. A translator's ``target_init`` folder gives a ceiling.
        data: The private data: where they are, or examples already loaded.
        recipe: How to train.
        output_dir: Folder of the adapter; new or empty.
        base_model: The base model; the one that the initial adapter names if None.
        seed: Seed of the order of the data and of dropout; nothing of a private run follows from it.
        privacy: How private, by DP-SGD; None trains without.
        work_dir: Folder of the client's own, where the ledger of private runs is kept.
        callbacks: Further callbacks of the run, such as one that shows its progress elsewhere.
        show_progress: Show a bar of the steps on stderr.

    Returns:
        Steps, final loss, and what was spent.

    Raises:
        MissingFileError: If the initial adapter, the model or the data are not there.
        AdapterError: If ``init`` is no LoRA adapter.
        DataError: If the data cannot be used.
        ConfigurationError: If the adapter names no base model, or does not fit it, or the run diverged, or would not be
            private.
        MissingExtraError: If the run is to be private and Opacus is not installed.
        OutputExistsError: If the output folder exists and is not empty.
    """
    require_new_folder(output_dir)
    ledger = Ledger(work_dir)
    if privacy is not None:
        _require_outside(work_dir, output_dir)
        ledger.require_usable()
    init_folder, init = _init_folder(init)
    adapter = load_adapter(init_folder, name=init)
    name = base_model or adapter.base_model
    if not name:
        raise ConfigurationError(f"initial adapter '{init}' names no base model. Give base_model.")
    examples = load_examples(data) if isinstance(data, DataSource) else data
    language_model, tokenizer = load_language_model(
        name, revision=None if base_model else adapter.config.revision, max_length=recipe.max_length
    )
    tokens = tokenize_examples(examples, tokenizer, max_length=recipe.max_length)
    if recipe.num_parts > 1 and privacy is None:
        [mean] = fine_tune_parts(
            language_model,
            [PackedRun("the run", adapter.tensors, tokens, seed)],
            tokenizer=tokenizer,
            recipe=recipe,
            scales=adapter.scales,
            dropout=float(adapter.config.lora_dropout),
            callbacks=[*callbacks, *([StepBar("fine-tuning")] if show_progress else [])],
        )
    model = _with_adapter(language_model, init_folder, names=(init, name))
    spent: PrivacyStatement | None = None
    if privacy is not None:
        from gradtx_hf.finetuning.dp import fine_tune_private  # needs an extra

        private = fine_tune_private(
            model,
            tokens,
            tokenizer=tokenizer,
            recipe=recipe,
            privacy=privacy,
            callbacks=callbacks,
            show_progress=show_progress,
        )
        spent = private.privacy
        result = ClientResult(private.num_steps, private.final_loss, converged=False, privacy=None)
    elif recipe.num_parts == 1:
        plain = fine_tune(
            model,
            tokens,
            tokenizer=tokenizer,
            recipe=recipe,
            seed=seed,
            callbacks=callbacks,
            show_progress=show_progress,
        )
        result = ClientResult(**asdict(plain), privacy=None)
    else:
        reset_adapter(model, mean.tensors)
        result = ClientResult(**asdict(mean.summary), privacy=None)
    model.active_peft_config.base_model_name_or_path = name
    model.active_peft_config.revision = None if base_model else adapter.config.revision
    with new_folder(output_dir) as folder:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        if spent is not None:
            total = ledger.add(examples, spent.steps, delta=spent.delta)
            statement = spent.to_dict() | {"total": asdict(total), "versions": installed_versions(LIBRARIES)}
            _state_privacy(folder, statement)
            result = replace(result, privacy=statement)
    logger.info("fine-tuned %d steps; adapter in %s", result.num_steps, output_dir)
    return result


def _with_adapter(model: PreTrainedModel, folder: Path, *, names: tuple[str, str]) -> PeftModel:
    """Put the initial adapter on the model, ready to be trained."""
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"initial adapter '{names[0]}' does not fit the model '{names[1]}': {reason}"
        ) from error


def _state_privacy(folder: Path, statement: Mapping[str, Any]) -> None:
    """Write what was spent beside the adapter, and into its card."""
    write_json(folder / PRIVACY_FILE, statement)
    card = folder / "README.md"
    section = f"## Privacy\n\nTrained with differential privacy: {privacy_text(statement)}.\n"
    write_text(card, f"{card.read_text(encoding='utf-8').rstrip()}\n\n{section}")


def _require_outside(work_dir: str | Path, output_dir: str | Path) -> None:
    """Refuse a ledger that would leave the house with the adapter."""
    work, output = Path(work_dir).expanduser().resolve(), Path(output_dir).resolve()
    if work == output or output in work.parents:
        raise ConfigurationError(
            f"work_dir '{work_dir}' is within output_dir '{output_dir}', and its ledger would leave with the adapter. "
            "Give a folder of your own."
        )


def _init_folder(init: str | Path) -> tuple[Path, str]:
    """Return the folder of the initial adapter, and what messages call it."""
    resolved = resolve_folder(init)
    inner = resolved.path / SOURCE_INIT
    if is_adapter_folder(resolved.path) or not inner.is_dir():
        return resolved.path, resolved.name
    return inner, f"{resolved.name}/{SOURCE_INIT}"
