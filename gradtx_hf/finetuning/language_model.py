"""Load a base language model and its tokenizer, or say in one line why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gradtx_hf.errors import ConfigurationError, MissingFileError


def load_language_model(
    name_or_path: str, *, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer: float32 on the CPU, or its own type on the GPU if there is one.

    Args:
        name_or_path: A local folder, or the id of a model on the Hub.
        revision: Branch, tag or commit on the Hub.

    Raises:
        MissingFileError: If there is no such model, or it cannot be fetched.
        ConfigurationError: If it is no causal language model, or has no tokenizer.
    """
    looks_local = name_or_path.startswith((".", "~", "/")) or name_or_path.count("/") > 1
    if looks_local and not Path(name_or_path).is_dir():
        raise MissingFileError(f"model '{name_or_path}' is not there. Give a folder, or the id of a model on the Hub.")
    has_gpu = torch.cuda.is_available()
    dtype = "auto" if has_gpu else torch.float32
    try:
        with _without_bars():
            model = AutoModelForCausalLM.from_pretrained(name_or_path, revision=revision, dtype=dtype)
    except OSError as error:
        reason = str(error).split("\n", 1)[0]
        raise MissingFileError(f"model '{name_or_path}' cannot be loaded: {reason}") from error
    except ValueError as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigurationError(f"model '{name_or_path}' is no causal language model: {reason}") from error
    tokenizer = _load_tokenizer(name_or_path, revision=revision)
    # on the device before an adapter is put on it: hooks set up on the CPU would miss a later move
    model = model.to("cuda" if has_gpu else "cpu")  # type: ignore[arg-type]  # hidden behind a wrapper
    return model.eval(), tokenizer


def _load_tokenizer(name_or_path: str, *, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"model '{name_or_path}' has no tokenizer that can be read. Save its tokenizer beside it."
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    is_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_shown:
            transformers_logging.enable_progress_bar()
