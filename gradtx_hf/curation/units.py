"""The units of work of a curation: the packs that its plan names and its store lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset

from gradtx_hf.curation.initial import SideSettings
from gradtx_hf.curation.shadow_sets import run_seed
from gradtx_hf.curation.worker import Pack, Run, SideRuns
from gradtx_hf.finetuning.data import without_bars
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.finetuning.public_data import rows_of_shadow_set, tokenize_corpora
from gradtx_hf.updates.store import SIDES, Side, UpdateStore


def missing_packs(
    store: UpdateStore,
    settings: Mapping[Side, SideSettings],
    examples: Mapping[str, Dataset],
    *,
    scratch: Path,
    checkpoint_seconds: float,
) -> list[Pack]:
    """Return the packs of which a run's shard is missing or damaged, in the plan's order, source before target.

    Args:
        store: The store; its plan says which shadow sets make a pack.
        settings: Both sides' settings.
        examples: The corpora by label.
        scratch: Folder for the tokenized rows that these packs read.
        checkpoint_seconds: Time between two checkpoints of a pack.
    """
    missing: list[Pack] = []
    for side in SIDES:
        numbered = [
            (number, sets)
            for number, sets in enumerate(store.plan["units"][side])
            if not all(store.has(side, k) for k in sets)
        ]
        if numbered:
            tokens_folder = scratch / side
            runs = tokenized_runs(
                store.plan, side, [sets for _, sets in numbered], settings[side], examples, tokens_folder
            )
            shared = SideRuns(
                str(store.folder),
                side,
                settings[side],
                str(tokens_folder),
                store.plan["num_snapshots"],
                checkpoint_seconds,
            )
            missing += [Pack(number, shared, own) for (number, _), own in zip(numbered, runs, strict=True)]
    return missing


def tokenized_runs(
    plan: Mapping[str, Any],
    side: Side,
    packs: Sequence[Sequence[int]],
    settings: SideSettings,
    examples: Mapping[str, Dataset],
    folder: Path,
) -> list[tuple[Run, ...]]:
    """Tokenize the rows that runs of a side read, save them, and return the runs of every pack.

    Args:
        plan: The plan, with the rows of every shadow set.
        side: Which side.
        packs: The shadow sets of every pack.
        settings: The side's settings.
        examples: The corpora by label.
        folder: Where the tokenized rows go.
    """
    rows_of_set = {k: rows_of_shadow_set(plan, k) for sets in packs for k in sets}
    rows = sorted(set(chain.from_iterable(rows_of_set.values())))
    tokenizer = load_tokenizer(settings.model, revision=settings.revision)
    tokenized = tokenize_corpora(examples, tokenizer, max_length=settings.recipe.max_length, rows=rows)
    with without_bars():
        tokenized.save_to_disk(str(folder))
    place = {row: i for i, row in enumerate(rows)}

    def run(k: int) -> Run:
        return Run(k, tuple(place[row] for row in rows_of_set[k]), run_seed(plan["seed"], side, k))

    return [tuple(run(k) for k in sets) for sets in packs]
