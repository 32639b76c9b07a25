"""What an evaluation reads: checked before anything is written, and known again by the digests of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gradtx_hf.errors import ConfigurationError, LayoutError, StoreError
from gradtx_hf.evaluation.arguments import ClientData, MetricName
from gradtx_hf.evaluation.reuse import sha256_of_adapter
from gradtx_hf.evaluation.scoring import check_columns
from gradtx_hf.finetuning import load_samples
from gradtx_hf.finetuning.language_model import load_model_config
from gradtx_hf.finetuning.public_data import sha256_of_rows
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


def check_rivals(rivals: Mapping[str, PeftTranslator], translator: PeftTranslator) -> None:
    """Check that clients of the translator are clients of its rivals too: that all start from the same adapters.

    Raises:
        ConfigurationError: If a rival has other initial adapters.
    """
    for name, rival in rivals.items():
        for side in SIDES:
            got, expected = (t.source_init if side == "source" else t.target_init for t in (rival, translator))
            if sha256_of_adapter(got) != sha256_of_adapter(expected):
                raise ConfigurationError(
                    f"got rival '{name}' ('{rival.name}') with another {side}_init, expected that of translator "
                    f"'{translator.name}', where the clients start. Give a translator of the same initial adapters."
                )


def check_data(clients: Sequence[ClientData], *, metric: MetricName) -> list[str]:
    """Load all client data once, to see that they can be learned from and scored on.

    Returns:
        The SHA-256 of each client's training rows.

    Raises:
        MissingFileError: If data are not there.
        DataError: If they cannot be used.
    """
    digests = []
    for client in clients:
        digests.append(sha256_of_rows(load_samples(client.train, seed=client.seed)))
        check_columns(load_samples(client.test, seed=TEST_SEED), metric, task=client.task)
    return digests


def input_digests(
    translator: Path, store: UpdateStore, clients: Sequence[ClientData], *, rivals: Mapping[str, Path]
) -> dict[str, str]:
    """Return the SHA-256 of every file that the scores depend on, by what a message calls it.

    Data sets of the Hub are not among them, naming a revision holds those fixed; nor are the public data, whose
    digests are in the store's plan.

    Args:
        translator: The translator's folder on this machine.
        store: The store.
        clients: The clients; local data are read.
        rivals: Method name to another translator's folder on this machine.
    """
    files = {f"translator file '{name}'": path for name, path in _translator_files(translator).items()}
    for rival, folder in rivals.items():
        files |= {f"file '{name}' of rival '{rival}'": path for name, path in _translator_files(folder).items()}
    files |= {f"store file '{name}'": store.folder / name for name in (PLAN_FILE, MANIFEST_FILE)}
    for client in clients:
        for sample in (*client.train, *client.test):
            local = sample.source.local_path
            if local is not None:
                files |= {f"data file '{path}'": path for path in _files_of(local)}
    return {name: sha256_of_file(path) for name, path in files.items()}


def _translator_files(folder: Path) -> dict[str, Path]:
    found = {path for pattern in TRANSLATOR_FILES for path in folder.rglob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def _files_of(data: Path) -> list[Path]:
    return sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
