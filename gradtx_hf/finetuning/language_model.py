"""Load a base language model and its tokenizer, or say in one line why not.

No code that comes with a model is run, and no pickled weights are read, which could run code too. Nor does a model's
folder decide that kernels are fetched, or that weights come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.peft_utils import find_adapter_config_file

from gradtx_hf.errors import ConfigurationError, GradTxError, MissingFileError
from gradtx_hf.playground import local_name


SHORT_TEXT = 64
"""Tokens up to which plain matrix products are faster on a CPU than the fused attention: by a tenth of a step at 16."""


def load_language_model(
    name_or_path: str, *, revision: str | None = None, max_length: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer: float32 on the CPU, or its own type on the GPU if there is one.

    Args:
        name_or_path: A local folder, the id of a model on the Hub, or the name of an embedded one.
        revision: Branch, tag or commit on the Hub.
        max_length: Most tokens of the texts that it will read, where that is known: it chooses the attention.

    Raises:
        MissingFileError: If there is no such model, or it cannot be fetched.
        ConfigurationError: If it is no causal language model, needs code of its own, has pickled weights only, is an
            adapter or carries one, or has no tokenizer.
    """
    config = load_model_config(name_or_path, revision=revision)
    has_gpu = torch.cuda.is_available()
    is_short = max_length is not None and max_length <= SHORT_TEXT
    with _explained(name_or_path), _without_bars():
        _require_no_adapter(name_or_path, revision)
        model = AutoModelForCausalLM.from_pretrained(
            local_name(name_or_path),
            config=config,
            revision=revision,
            dtype="auto" if has_gpu else torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            **({"attn_implementation": "eager"} if is_short and not has_gpu else {}),
        )
    tokenizer = load_tokenizer(name_or_path, revision=revision)
    # on the device before an adapter is put on it: hooks set up on the CPU would miss a later move
    model = model.to("cuda" if has_gpu else "cpu")  # type: ignore[arg-type]  # hidden behind a wrapper
    return model.eval(), tokenizer


def load_model_config(name_or_path: str, *, revision: str | None = None) -> PreTrainedConfig:
    """Load a model's configuration alone: enough to know that the model is there.

    Raises:
        MissingFileError: If there is no such model, or it cannot be fetched.
        ConfigurationError: If its configuration cannot be used, or needs code of its own.
    """
    looks_local = name_or_path.startswith((".", "~", "/")) or name_or_path.count("/") > 1
    if looks_local and not Path(name_or_path).is_dir():
        raise MissingFileError(f"model '{name_or_path}' is not there. Give a folder, or the id of a model on the Hub.")
    with _explained(name_or_path):
        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                local_name(name_or_path), revision=revision, trust_remote_code=False
            )
        except (TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, StrictDataclassError) as error:
            raise ConfigurationError(f"config.json of model '{name_or_path}' cannot be used: {error}") from error
    if "transformers_weights" in vars(config):
        raise ConfigurationError(
            f"config.json of model '{name_or_path}' names a file of weights (transformers_weights), which is not "
            "followed. Save the model again with save_pretrained."
        )
    config._attn_implementation = config._experts_implementation = None  # what a file asks for may be fetched and run
    return config


def load_tokenizer(name_or_path: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ConfigurationError: If the model has none, or one that needs code of its own.
    """
    try:
        return AutoTokenizer.from_pretrained(local_name(name_or_path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if _asks_for_code(error):
            raise _refusal_of_code(f"the tokenizer of model '{name_or_path}'") from error
        raise ConfigurationError(
            f"model '{name_or_path}' has no tokenizer that can be read. Save its tokenizer beside it."
        ) from error


def _require_no_adapter(name_or_path: str, revision: str | None) -> None:
    """Check that transformers will not load another repository's weights, or an adapter on top of these."""
    if find_adapter_config_file(local_name(name_or_path), revision=revision) is not None:
        raise ConfigurationError(
            f"model '{name_or_path}' holds an adapter_config.json: it is an adapter, or would load with one on top. "
            "Give the base model alone."
        )


@contextmanager
def _explained(name_or_path: str) -> Iterator[None]:
    """Turn what transformers raises for a model into one line."""
    try:
        yield
    except GradTxError:
        raise
    except SafetensorError as error:
        raise ConfigurationError(
            f"the weights of model '{name_or_path}' are truncated or damaged ({error}). Copy or download them again."
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        if _asks_for_code(error):
            raise _refusal_of_code(f"model '{name_or_path}'") from error
        if "no file named model.safetensors" in reason or "cannot be loaded with `safetensors`" in reason:
            raise ConfigurationError(
                f"model '{name_or_path}' has no weights in safetensors files, and pickled ones (.bin, .pt) are not "
                "read, for they can run code. Save it again with save_pretrained, which writes safetensors."
            ) from error
        if isinstance(error, OSError):
            raise MissingFileError(f"model '{name_or_path}' cannot be loaded: {reason}") from error
        raise ConfigurationError(f"model '{name_or_path}' is no causal language model: {reason}") from error


def _asks_for_code(error: Exception) -> bool:
    return "trust_remote_code" in str(error)


def _refusal_of_code(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} needs code that comes with it (auto_map), which is never run. Give a model of an architecture that "
        "transformers has."
    )


@contextmanager
def _without_bars() -> Iterator[None]:
    is_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_shown:
            transformers_logging.enable_progress_bar()
