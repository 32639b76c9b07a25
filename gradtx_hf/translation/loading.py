"""Read the models of a translator's folder, or say in one line why not."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError

from gradtx_hf.errors import GradTxError, LayoutError, MissingFileError
from gradtx_hf.lora.adapters import LFS_POINTER
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel


SOURCE_INIT = "source_init"
TARGET_INIT = "target_init"
PARTS_FOLDER = "parts"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def is_translator_folder(folder: str | Path) -> bool:
    """Return whether a folder holds a translator."""
    return (Path(folder) / SOURCE_INIT).is_dir() and (Path(folder) / TARGET_INIT).is_dir()


def load_models(
    folder: Path, *, name: str, device: torch.device, dtype: torch.dtype
) -> dict[str, GradTransformerModel]:
    """Load a translator's model under the empty name, or one model per part under the part's name.

    Args:
        folder: The translator's folder.
        name: What messages call the translator.
        device: Where the models go.
        dtype: The weights' format.

    Raises:
        MissingFileError: If it is no translator, or lacks a file.
        LayoutError: If a model is damaged.
        ConfigurationError: If a model's configuration cannot be used.
    """
    models = {part: _load_model(path, name, dtype) for part, path in _model_folders(folder, name).items()}
    for model in models.values():
        torch.nn.Module.to(model, device)
        model.eval()
    return models


def _model_folders(folder: Path, name: str) -> dict[str, Path]:
    found = {"": folder} if (folder / CONFIG_FILE).is_file() else {}
    if not found:
        parts = sorted((folder / PARTS_FOLDER).glob("*"))
        found = {part.name: part for part in parts if (part / CONFIG_FILE).is_file()}
    lacking = [f"{init}/" for init in (SOURCE_INIT, TARGET_INIT) if not (folder / init).is_dir()]
    lacking += [] if found else [CONFIG_FILE]
    if lacking:
        raise MissingFileError(
            f"'{name}' is no translator: it has no {' and no '.join(lacking)}. "
            "Give a translator's folder or repository."
        )
    return found


def _load_model(folder: Path, name: str, dtype: torch.dtype) -> GradTransformerModel:
    _check_files(folder, name)
    try:
        model = GradTransformerModel.from_pretrained(folder, dtype=dtype)
    except GradTxError:
        raise
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        # a damaged header is met at any depth of safetensors, a wrong field anywhere in transformers
        reason = " ".join(str(error).split())[:200]
        raise LayoutError(
            f"the model of translator '{name}' is truncated or damaged ({reason}). Copy or download it again."
        ) from error
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise LayoutError(f"weight '{key}' of translator '{name}' holds NaN or infinite values. Train it again.")
    return model


def _check_files(folder: Path, name: str) -> None:
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{CONFIG_FILE} of translator '{name}' is not JSON. Copy or download it again.") from error
    found = values.get("model_type") if isinstance(values, dict) else None
    if found != GradTransformerConfig.model_type:
        raise LayoutError(
            f"{CONFIG_FILE} of translator '{name}' has model_type {found!r}, expected "
            f"{GradTransformerConfig.model_type!r}. Give a translator's folder or repository."
        )
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() and not any(folder.glob("model*.safetensors.index.json")):
        raise MissingFileError(f"translator '{name}' has no {WEIGHTS_FILE}. Copy or download it again.")
    if weights.is_file():
        with weights.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                raise LayoutError(
                    f"{WEIGHTS_FILE} of translator '{name}' is a Git-LFS pointer, not the weights. Run 'git lfs pull'."
                )
