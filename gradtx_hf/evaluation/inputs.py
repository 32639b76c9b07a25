"""What an evaluation reads: checked before anything is written, and known again by the digests of its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gradtx_hf.errors import LayoutError, StoreError
from gradtx_hf.evaluation.arguments import ClientData, MetricName
from gradtx_hf.evaluation.scoring import check_columns
from gradtx_hf.finetuning import load_samples
from gradtx_hf.finetuning.language_model import load_model_config
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.layout import describe_difference
from gradtx_hf.updates.shard import sha256_of_file
from gradtx_hf.updates.store import MANIFEST_FILE, PLAN_FILE, SIDES, UpdateStore


TEST_SEED = 0
"""Held-out samples are drawn alike for every client of a task."""
TRANSLATOR_FILES = ("*.safetensors", "*config.json")
"""Patterns of the files that make a translator what it is, in its folder and below."""


def check_translator_and_store(translator: PeftTranslator, store: UpdateStore) -> None:
    """Check that the controls start where the translator does, and that its base models are there.

    Raises:
        StoreError: If the store was not made by ``curate``, or has other initial adapters.
        LayoutError: If its adapters adapt other modules.
        MissingFileError: If a base model is not there.
    """
    if not {*SIDES, "corpora", "shadow_sets"} <= store.plan.keys():
        raise StoreError(f"update store '{store.folder}' was not made by gradtx curate. Give one that was.")
    for side in SIDES:
        init = translator.source_init if side == "source" else translator.target_init
        start = load_adapter(store.folder / f"{side}_init")
        if start.layout.shapes != init.layout.shapes:
            raise LayoutError(
                f"store '{store.folder}' does not fit translator '{translator.name}' on the {side} side: "
                f"{describe_difference(start.layout, init.layout)}"
            )
        if not all(torch.equal(start.tensors[name], init.tensors[name]) for name in init.tensors):
            raise StoreError(
                f"store '{store.folder}' has another {side}_init than translator '{translator.name}', so that its "
                "controls would start elsewhere. Give the store that the translator was trained on."
            )
        load_model_config(init.base_model, revision=init.config.revision)


def check_data(clients: Sequence[ClientData], *, metric: MetricName) -> None:
    """Load all client data once, to see that they can be learned from and scored on.

    Raises:
        MissingFileError: If data are not there.
        DataError: If they cannot be used.
    """
    for client in clients:
        load_samples(client.train, seed=client.seed)
        check_columns(load_samples(client.test, seed=TEST_SEED), metric, task=client.task)


def input_digests(translator: Path, store: UpdateStore, clients: Sequence[ClientData]) -> dict[str, str]:
    """Return the SHA-256 of every file that the scores depend on, by what a message calls it.

    Data sets of the Hub are not among them, naming a revision holds those fixed; nor are the public data, whose
    digests are in the store's plan.

    Args:
        translator: The translator's folder on this machine.
        store: The store.
        clients: The clients; local data are read.
    """
    found = {path for pattern in TRANSLATOR_FILES for path in translator.rglob(pattern) if path.is_file()}
    files = {f"translator file '{path.relative_to(translator).as_posix()}'": path for path in sorted(found)}
    files |= {f"store file '{name}'": store.folder / name for name in (PLAN_FILE, MANIFEST_FILE)}
    for client in clients:
        for sample in (*client.train, *client.test):
            local = sample.source.local_path
            if local is not None:
                files |= {f"data file '{path}'": path for path in _files_of(local)}
    return {name: sha256_of_file(path) for name, path in files.items()}


def _files_of(data: Path) -> list[Path]:
    return sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
