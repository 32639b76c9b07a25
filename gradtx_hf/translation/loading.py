"""Read the models of a translator's folder, or say in one line why not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from gradtx_hf.errors import ConfigurationError, LayoutError, MissingFileError
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.model.fused_linear import has_float16_products
from gradtx_hf.model.inference import load_for_inference
from gradtx_hf.model.weights import CONFIG_FILE, read_config, read_headers, require_finite
from gradtx_hf.updates.reading import ForeignFolder


SOURCE_INIT = "source_init"
TARGET_INIT = "target_init"
PARTS_FOLDER = "parts"
LARGE_BYTES = 64 << 20
"""Weights from this size on are read from memory for every block; smaller ones stay in the processor's cache."""


def is_translator_folder(folder: str | Path) -> bool:
    """Return whether a folder holds a translator."""
    return (Path(folder) / SOURCE_INIT).is_dir() and (Path(folder) / TARGET_INIT).is_dir()


def load_models(
    folder: Path, *, name: str, device: torch.device, dtype: torch.dtype | Literal["auto"]
) -> dict[str, GradTransformerModel]:
    """Load a translator's model under the empty name, or one model per part under the part's name.

    Large models, and all that are not in float32, are loaded to translate with alone: no gradients, no other device or
    number format later.

    Args:
        folder: The translator's folder.
        name: What messages call the translator.
        device: Where the models go.
        dtype: float32, bfloat16, float16 (on a CPU alone), or "auto" for the one that it was saved in, float32 in place
            of a float16 that cannot be used there.

    Raises:
        MissingFileError: If it is no translator, or lacks a file.
        LayoutError: If a model is damaged.
        ConfigurationError: If a model's configuration, or the number format, cannot be used.
    """
    if dtype not in ("auto", torch.float32, torch.bfloat16, torch.float16):
        raise ConfigurationError(f"got dtype={dtype}, expected float32, bfloat16, float16 or 'auto' to translate with.")
    return {part: _load_model(path, name, device, dtype) for part, path in _model_folders(folder, name).items()}


def _model_folders(folder: Path, name: str) -> dict[str, Path]:
    files = ForeignFolder(folder, f"translator '{name}'", LayoutError)
    found = {"": folder} if files.has(CONFIG_FILE) else {}
    if not found and files.find(PARTS_FOLDER) is not None:
        parts = sorted(path.name for path in (folder / PARTS_FOLDER).glob("*"))
        found = {
            part: folder / PARTS_FOLDER / part for part in parts if files.has(f"{PARTS_FOLDER}/{part}/{CONFIG_FILE}")
        }
    inits = {init: files.find(init) for init in (SOURCE_INIT, TARGET_INIT)}
    lacking = [f"{init}/" for init, path in inits.items() if path is None or not path.is_dir()]
    lacking += [] if found else [CONFIG_FILE]
    if lacking:
        raise MissingFileError(
            f"'{name}' is no translator: it has no {' and no '.join(lacking)}. "
            "Give a translator's folder or repository."
        )
    return found


def _load_model(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype | Literal["auto"]
) -> GradTransformerModel:
    files = ForeignFolder(folder, f"translator '{name}'", LayoutError)
    config = read_config(files)
    if dtype == "auto":
        found = {name: info for infos in read_headers(files).values() for name, info in infos.items()}
        formats = {info.dtype for name, info in found.items() if name.startswith("W_out.")}
        dtype = torch.bfloat16 if "BF16" in formats else torch.float32
        if "F16" in formats and has_float16_products(device):
            dtype = torch.float16
    is_large = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file()) >= LARGE_BYTES
    if config.has_transformer and (is_large or dtype != torch.float32):
        return load_for_inference(files, config, name=name, dtype=dtype, device=device)
    model = GradTransformerModel.from_folder(folder, name=name, config=config, dtype=torch.float32)
    for key, value in model.state_dict().items():
        require_finite(key, value, owner=files.owner)
    torch.nn.Module.to(model, device)
    model.eval()
    return model
