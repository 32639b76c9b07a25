"""The file of an input distance in a translator's folder: four tensors, the layout and the limits.

Axes: N blocks, D the size of the largest block, Q components.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from gradtx_hf.errors import LayoutError
from gradtx_hf.output import write_bytes
from gradtx_hf.translation.distance import InputDistance
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.reading import ForeignFolder, parse_json


INPUT_DISTANCE_FILE = "input_distance.safetensors"
FORMAT = "gradtx input distance 1"
METADATA_KEY = "input_distance"


def save_input_distance(folder: Path, distance: InputDistance) -> None:
    """Write the file: float16 components, all else as it is, so that what is read measures the same."""
    values = {
        "format": FORMAT,
        "layout": distance.layout.to_dict(),
        "fingerprint": distance.layout.fingerprint,
        "inside_limit": distance.inside_limit,
        "outside_limit": distance.outside_limit,
        "limit": distance.limit,
    }
    tensors = {
        "mean": distance.mean,
        "std": distance.std,
        "components": distance.components,
        "variances": distance.variances,
    }
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {METADATA_KEY: json.dumps(values)})
    write_bytes(folder / INPUT_DISTANCE_FILE, content)


def load_input_distance(folder: Path, *, name: str) -> InputDistance | None:
    """Read the file; None if a translator has none.

    Args:
        folder: The translator's folder.
        name: What messages call the translator.

    Raises:
        LayoutError: If the file is damaged, of another version, or holds values that cannot be.
    """
    files = ForeignFolder(folder, f"translator '{name}'", LayoutError)
    if not files.has(INPUT_DISTANCE_FILE):
        return None
    with files.open_tensors(INPUT_DISTANCE_FILE) as (opened, infos):
        values = parse_json(opened.metadata()[METADATA_KEY].encode())
        tensors = {key: opened.get_tensor(key) for key in infos}
        try:
            return _made_of(values, tensors)
        except LayoutError as error:
            raise ValueError(str(error).rstrip(".")) from error  # said with the file's name, as all its damage


def _made_of(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> InputDistance:
    if values["format"] != FORMAT:
        raise LayoutError(f"got format {values['format']!r}, expected {FORMAT!r}")
    layout = BlockLayout.from_dict(values["layout"])
    if values["fingerprint"] != layout.fingerprint:
        raise LayoutError(f"got a layout of fingerprint {layout.fingerprint}, expected {values['fingerprint']}")
    _check_tensors(tensors, layout)
    return InputDistance(
        layout=layout,
        mean=tensors["mean"],
        std=tensors["std"],
        components=tensors["components"],
        variances=tensors["variances"],
        inside_limit=_limit(values, "inside_limit"),
        outside_limit=_limit(values, "outside_limit"),
        limit=_limit(values, "limit"),
    )


def _check_tensors(tensors: Mapping[str, Tensor], layout: BlockLayout) -> None:
    shape = (layout.num_blocks, layout.block_dim)
    num_components = len(tensors["variances"])
    expected = {
        "mean": (shape, torch.float32),
        "std": (shape, torch.float32),
        "components": ((num_components, *shape), torch.float16),
        "variances": ((num_components,), torch.float32),
    }
    got = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
    if got != expected:
        raise LayoutError(f"got tensors {got}, expected {expected}")
    if num_components == 0:
        raise LayoutError("got no components, expected at least one")
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise LayoutError(f"'{key}' holds NaN or infinite values")
        if key in ("std", "variances") and not bool((tensor > 0).all()):
            raise LayoutError(f"'{key}' holds values that are not > 0")


def _limit(values: Mapping[str, Any], key: str) -> float:
    limit = float(values[key])
    if not math.isfinite(limit) or limit <= 0:
        raise LayoutError(f"got {key} {limit}, expected a finite number > 0")
    return limit
