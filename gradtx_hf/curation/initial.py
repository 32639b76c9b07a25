"""The initial adapters of both sides: made once from the seed, written by PEFT, read by all runs and all clients."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradtx_hf.finetuning import FineTuningRecipe, add_adapter, load_language_model
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.playground import local_name
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import SIDES, Side


MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SideSettings:
    """All that determines one side's initial adapter and runs, but for data and seed.

    Attributes:
        model: A folder, or an id on the Hub.
        revision: Revision on the Hub.
        target_modules: Last parts of the module paths to adapt.
        rank: LoRA rank.
        alpha: LoRA alpha.
        dropout: LoRA dropout, in [0, 1).
        recipe: How a run trains.
    """

    model: str
    revision: str | None
    target_modules: tuple[str, ...]
    rank: int
    alpha: int
    dropout: float
    recipe: FineTuningRecipe

    def to_plan(self) -> dict[str, Any]:
        """Return all values for a store's plan, with the SHA-256 of a local model's files."""
        return asdict(self) | {"model_sha256": sha256_of_model(self.model)}


def init_folder(store_folder: str | Path, side: Side) -> Path:
    """Return where a store keeps a side's initial adapter."""
    return Path(store_folder) / f"{side}_init"


def initial_layout(
    store_folder: Path, side: Side, settings: SideSettings, *, seed: int, token_kinds: Mapping[str, str] | None = None
) -> BlockLayout:
    """Return the layout of a side's updates; the initial adapter is made, aside, unless the store has it.

    Args:
        store_folder: The store's folder; nothing but a hidden folder is written to it.
        side: Which side.
        settings: The side's settings.
        seed: Seed of the adapter.
        token_kinds: Kind name to a pattern in the module path; one token per layer if None.

    Raises:
        LayoutError: If no kind's pattern fits a module.
    """
    final, prepared = init_folder(store_folder, side), _prepared(store_folder, side)
    if not final.is_dir():
        shutil.rmtree(prepared, ignore_errors=True)
        _write_initial_adapter(prepared, settings, seed=seed)
    layout = initial_adapter(store_folder, side).layout
    return layout if token_kinds is None else BlockLayout.from_shapes(layout.shapes, token_kinds=token_kinds)


def initial_adapter(store_folder: Path, side: Side) -> Adapter:
    """Return a side's initial adapter, be it the store's or one that is prepared for it."""
    final = init_folder(store_folder, side)
    return load_adapter(final if final.is_dir() else _prepared(store_folder, side), name=f"{side}_init")


def publish_initial_adapter(store_folder: Path, side: Side) -> None:
    """Give the prepared initial adapter its name in the store, once the store is known to be ours."""
    final, prepared = init_folder(store_folder, side), _prepared(store_folder, side)
    if not final.is_dir():
        prepared.rename(final)
    shutil.rmtree(prepared, ignore_errors=True)


def discard_initial_adapters(store_folder: Path) -> None:
    """Remove initial adapters that were prepared for a store which then was not made."""
    for side in SIDES:
        shutil.rmtree(_prepared(store_folder, side), ignore_errors=True)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a local model: configuration, weights and tokenizer, by name."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def sha256_of_model(model: str) -> str | None:
    """Return the SHA-256 of a local model's configuration, weights and tokenizer; None for a model of the Hub."""
    folder = Path(local_name(model))
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in model_files(folder):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _prepared(store_folder: Path, side: Side) -> Path:
    return store_folder / f".{side}_init.tmp"


def _write_initial_adapter(folder: Path, settings: SideSettings, *, seed: int) -> None:
    model, _ = load_language_model(settings.model, revision=settings.revision)
    adapted = add_adapter(
        model,
        rank=settings.rank,
        alpha=settings.alpha,
        target_modules=settings.target_modules,
        seed=seed,
        dropout=settings.dropout,
    )
    config = adapted.active_peft_config
    config.base_model_name_or_path = settings.model
    config.revision = settings.revision
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    _sort_target_modules(folder / "adapter_config.json")
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _sort_target_modules(path: Path) -> None:
    """Sort the modules, which PEFT keeps in a set and writes in an order that changes from process to process."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["target_modules"] = sorted(values["target_modules"])
    path.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
