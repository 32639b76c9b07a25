"""Stores of one source share its runs: what one store holds, another need not fine-tune. Source: ours."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.updates.store import MANIFEST_FILE, UpdateStore


SAME = ("source", "corpora", "shadow_sets", "num_snapshots", "seed", "store_dtype")
"""Parts of a plan that, with the packs and the layout of the source, determine a source run's bytes."""


def copy_source_runs(arguments: CurationArguments, stores: Path) -> int:
    """Give a store the source runs of a finished one beside it, if that would make the very same; curation goes on.

    Args:
        arguments: How the store is curated.
        stores: The folder of stores.

    Returns:
        Number of runs that were copied.
    """
    finished = [path.parent for path in sorted(stores.glob(f"*/{MANIFEST_FILE}"))]
    if not finished:
        return 0
    store = curate(replace(arguments, plan_only=True))
    for other in map(UpdateStore.open, finished):
        if _has_same_source_runs(store, other):
            missing = [k for k in store.shadow_sets("source") if not store.has("source", k)]
            for k in missing:
                path = store.shard_path("source", k)
                copied = path.with_name(f".{path.name}.tmp")
                shutil.copyfile(other.shard_path("source", k), copied)
                copied.replace(path)
            return len(missing)
    return 0


def _has_same_source_runs(store: UpdateStore, other: UpdateStore) -> bool:
    return (
        all(store.plan.get(name) == other.plan.get(name) for name in SAME)
        and store.plan["units"]["source"] == other.plan["units"]["source"]
        and store.source_layout.fingerprint == other.source_layout.fingerprint
    )
