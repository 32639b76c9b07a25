"""The two stacks of a T5, bare: built from a configuration, or taken from a pretrained model.

Source: paper Sec. 4 (the translator starts from Flan-T5-Large).
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub import resolve_folder
from gradtx_hf.model.configuration import DEFAULT_T5, T5Value, complete_t5
from gradtx_hf.model.weights import CONFIG_FILE, read_headers, read_tensors, require_shapes
from gradtx_hf.updates.reading import ForeignFolder


STACKS = ("encoder", "decoder")
CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(T5Stack.forward).parameters else "past_key_values"
"""What a T5Stack calls its cache of keys and values; transformers 5.24 renamed it."""


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
    """Load a T5's stacks in float32, from safetensors only; of its configuration, the fields of ``DEFAULT_T5`` alone.

    Raises:
        ConfigurationError: If the model there is no T5, or its weights are not complete.
        MissingFileError: If it cannot be found, or has no safetensors weights.
    """
    resolved = resolve_folder(
        path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    files = ForeignFolder(resolved.path, f"T5 '{path}'", ConfigurationError)
    fields = _read_fields(files)
    found = read_headers(files)
    infos = {name: info for shard in found.values() for name, info in shard.items()}
    if int(fields["num_layers"]) + int(fields["num_decoder_layers"]) > len(infos):
        raise ConfigurationError(f"{files.owner} has fewer weights than its config.json has layers. Download it again.")
    names = _stack_shapes(T5Config(**fields, vocab_size=1, pad_token_id=None, eos_token_id=None))  # type: ignore[arg-type]  # checked one by one
    require_shapes(files, infos, names)
    tensors = {name: tensor.float() for name, tensor in read_tensors(files, found, names).items()}
    return LoadedT5(
        fields=fields,
        **{
            stack: {name.removeprefix(f"{stack}."): t for name, t in tensors.items() if name.startswith(f"{stack}.")}
            for stack in STACKS
        },
    )


def _read_fields(files: ForeignFolder) -> dict[str, T5Value]:
    values: Any = files.read_json(CONFIG_FILE) if files.has(CONFIG_FILE) else {}
    found = values.get("model_type") if isinstance(values, dict) else None
    if found != "t5":
        raise ConfigurationError(
            f"{files.owner} is a model of type {found!r}, expected 't5' (T5 or Flan-T5, any size)."
        )
    defaults = T5Config()
    given = {name: values[name] for name in DEFAULT_T5 if values.get(name) is not None}
    fields = {name: getattr(defaults, name) for name in DEFAULT_T5} | given
    if "num_decoder_layers" not in given:
        fields["num_decoder_layers"] = fields["num_layers"]
    return complete_t5(fields)


def _stack_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Return the weights of both stacks by their names in a T5, with their shapes; takes no memory for them."""
    with torch.device("meta"):
        stacks = {stack: build_stack(config, is_decoder=stack == "decoder") for stack in STACKS}
    return {
        f"{stack}.{name}": tuple(tensor.shape)
        for stack, module in stacks.items()
        for name, tensor in module.state_dict().items()
    }
