"""The state of an optimizer, a schedule or random generators as JSON and safetensors, instead of a pickle.

A state is a tree of dictionaries, lists, tuples and plain values, with tensors at its leaves. The tree goes to
``<name>.json``, its tensors to ``<name>.safetensors``; what is read back is equal, types and bits included. JSON has
no tuples, no numbers as keys and no infinity, so these, and what refers to a tensor, are objects of one key:

    {"tuple": [...]}   {"dict": [[key, value], ...]}   {"float": "inf"}   {"tensor": NAME}   {"array": NAME}

Source: ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.output import write_text


def write_tree(folder: Path, name: str, tree: Any) -> None:  # noqa: ANN401 - any state
    """Write a state as ``<name>.json``, and ``<name>.safetensors`` where it holds tensors.

    Args:
        folder: An existing folder.
        name: Name of the files.
        tree: Dictionaries, lists, tuples, NumPy arrays, tensors, texts, numbers, truth values and None.

    Raises:
        TypeError: If it holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(tree, tensors), separators=(",", ":"), allow_nan=False)
    if tensors:
        save_file(tensors, folder / f"{name}.safetensors")
    write_text(folder / f"{name}.json", text)


def read_tree(folder: Path, name: str) -> Any:  # noqa: ANN401 - any state
    """Read a state that ``write_tree`` wrote.

    Raises:
        ConfigurationError: If a file is missing or damaged.
    """
    path = folder / f"{name}.safetensors"
    try:
        tensors = load_file(path) if path.is_file() else {}
        return _decode(json.loads((folder / f"{name}.json").read_bytes()), tensors)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ConfigurationError(
            f"the training state '{name}' in '{folder.name}' is damaged ({type(error).__name__}: {error}). Resume from "
            "another checkpoint."
        ) from error


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - any state
    """Return a value as JSON, and add its tensors."""
    if isinstance(value, (Tensor, np.ndarray)):
        name = str(len(tensors))
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach().cpu()
        tensors[name] = tensor.contiguous().clone()
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, tensors), _encode(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, (list, tuple)):
        entries = [_encode(entry, tensors) for entry in value]
        return entries if isinstance(value, list) else {"tuple": entries}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a training state holds a {type(value).__name__}, which has no place in JSON or safetensors")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - any state
    """Return what ``_encode`` made JSON of; ValueError, KeyError or TypeError if it did not."""
    if isinstance(value, list):
        return [_decode(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_decode(entry, tensors) for entry in content)
    if kind == "dict":
        return {_decode(key, tensors): _decode(entry, tensors) for key, entry in content}
    raise ValueError(f"unknown kind {kind!r}")
