"""What a client runs: fine-tune the initial adapter on private data, and write a PEFT adapter folder.

The folder holds PEFT's two files and its card, nothing else: no data, no paths of data, no checkpoints.
"""

from __future__ import annotations

import logging
from pathlib import Path

from datasets import Dataset
from peft import PeftModel

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import (
    DataSource,
    FineTuningRecipe,
    FineTuningResult,
    fine_tune,
    fine_tune_parts,
    load_examples,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.hub import resolve_folder
from gradtx_hf.lora import is_adapter_folder, load_adapter
from gradtx_hf.output import new_folder, require_new_folder
from gradtx_hf.translation import SOURCE_INIT


logger = logging.getLogger(__name__)


def fine_tune_client(
    init: str | Path,
    data: DataSource | Dataset,
    *,
    recipe: FineTuningRecipe,
    output_dir: str | Path,
    base_model: str | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> FineTuningResult:
    """Fine-tune a translator's initial adapter on one client's data.

    Args:
        init: A translator, whose ``source_init`` is taken, or an initial adapter itself: a folder, or a Hub repository
            ``owner/name[@revision]``. A translator's ``target_init`` folder gives a ceiling.
        data: The private data: where they are, or examples already loaded.
        recipe: How to train.
        output_dir: Folder of the adapter; new or empty.
        base_model: The base model; the one that the initial adapter names if None.
        seed: Seed of the order of the data and of dropout.
        show_progress: Show a bar of the steps on stderr.

    Returns:
        Steps and final loss.

    Raises:
        MissingFileError: If the initial adapter, the model or the data are not there.
        AdapterError: If ``init`` is no LoRA adapter.
        DataError: If the data cannot be used.
        ConfigurationError: If the adapter names no base model, or does not fit it, or the run diverged.
        OutputExistsError: If the output folder exists and is not empty.
    """
    require_new_folder(output_dir)
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
    if recipe.num_parts > 1:
        mean = fine_tune_parts(
            language_model,
            adapter,
            tokens,
            tokenizer=tokenizer,
            recipe=recipe,
            seed=seed,
        )
    try:
        model = PeftModel.from_pretrained(language_model, str(init_folder), is_trainable=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"initial adapter '{init}' does not fit the model '{name}': {reason}") from error
    if recipe.num_parts == 1:
        result = fine_tune(model, tokens, tokenizer=tokenizer, recipe=recipe, seed=seed, show_progress=show_progress)
    else:
        reset_adapter(model, mean.tensors)
        result = mean.summary
    model.active_peft_config.base_model_name_or_path = name
    model.active_peft_config.revision = None if base_model else adapter.config.revision
    with new_folder(output_dir) as folder:
        model.save_pretrained(str(folder), save_embedding_layers=False)
    logger.info("fine-tuned %d steps to a loss of %.3f; adapter in %s", result.num_steps, result.final_loss, output_dir)
    return result


def _init_folder(init: str | Path) -> tuple[Path, str]:
    """Return the folder of the initial adapter, and what messages call it."""
    resolved = resolve_folder(init)
    inner = resolved.path / SOURCE_INIT
    if is_adapter_folder(resolved.path) or not inner.is_dir():
        return resolved.path, resolved.name
    return inner, f"{resolved.name}/{SOURCE_INIT}"
