"""The two stacks of a T5, bare: built from a configuration, or taken from a pretrained model.

Source: paper Sec. 4 (the translator starts from Flan-T5-Large).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5Model
from transformers.models.t5.modeling_t5 import T5Stack

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.model.configuration import DEFAULT_T5, T5Value


def build_stack(config: T5Config, *, is_decoder: bool) -> T5Stack:
    """Build one T5 stack without the token embedding that T5Stack makes for itself."""
    config = deepcopy(config)
    config.is_decoder = is_decoder
    config.use_cache = is_decoder
    if is_decoder and config.num_decoder_layers is not None:
        config.num_layers = config.num_decoder_layers
    stack = T5Stack(config)
    stack.embed_tokens = None  # type: ignore[assignment]  # blocks come in as inputs_embeds
    return stack


@dataclass(frozen=True, eq=False)
class LoadedT5:
    """What a translator takes over from a T5.

    Attributes:
        fields: T5Config fields, those of ``DEFAULT_T5``.
        encoder: Weights of the encoder stack by name, without the token embedding.
        decoder: Weights of the decoder stack by name, without the token embedding.
    """

    fields: dict[str, T5Value]
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]


def load_t5(
    path: str | Path,
    *,
    revision: str | None,
    token: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> LoadedT5:
    """Load a T5's stacks in float32, from safetensors only and without remote code.

    Raises:
        ConfigurationError: If the model there is no T5, or its weights are not complete.
        MissingFileError: If it cannot be found, or has no safetensors weights.
    """
    try:
        values, _ = T5Config.get_config_dict(
            path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        if values.get("model_type") != "t5":
            raise ConfigurationError(
                f"'{path}' is a model of type {values.get('model_type')!r}, expected 't5' (T5 or Flan-T5, any size)."
            )
        config = T5Config.from_dict(values)
        loaded: Any = T5Model.from_pretrained(
            path,
            config=config,
            revision=revision or "main",
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise MissingFileError(f"cannot load a T5 with safetensors weights from '{path}': {reason}") from error
    model, info = loaded
    missing = sorted(name for name in info["missing_keys"] if "embed_tokens" not in name)
    if missing:
        raise ConfigurationError(f"T5 '{path}' lacks weight '{missing[0]}' ({len(missing)} in all).")
    return LoadedT5(
        fields={name: getattr(config, name) for name in DEFAULT_T5},
        encoder=_without_embedding(model.encoder.state_dict()),
        decoder=_without_embedding(model.decoder.state_dict()),
    )


def _without_embedding(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("embed_tokens.")}
