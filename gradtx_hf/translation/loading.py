"""Read the models of a translator's folder, or say in one line why not."""

from __future__ import annotations

from pathlib import Path

import torch

from gradtx_hf.errors import LayoutError, MissingFileError
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.model.weights import CONFIG_FILE
from gradtx_hf.updates.reading import ForeignFolder


SOURCE_INIT = "source_init"
TARGET_INIT = "target_init"
PARTS_FOLDER = "parts"


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


def _load_model(folder: Path, name: str, dtype: torch.dtype) -> GradTransformerModel:
    model = GradTransformerModel.from_folder(folder, name=name, dtype=dtype)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise LayoutError(f"weight '{key}' of translator '{name}' holds NaN or infinite values. Train it again.")
    return model
