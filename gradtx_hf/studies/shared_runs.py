"""Stores of one source share its runs: what one store holds, another need not fine-tune. Source: ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.updates.store import MANIFEST_FILE, UpdateStore


SAME = ("source", "corpora", "shadow_sets", "num_snapshots", "seed", "store_dtype")
"""Parts of a plan that, with the packs and the blocks of the source, determine a source run's updates."""


def share_source_runs(arguments: CurationArguments, stores: Path) -> int:
    """Give a store the source runs of a finished one beside it, if its own would be the same; curation goes on.

    Token kinds may differ, which change no update.

    Args:
        arguments: How the store is curated.
        stores: The folder of stores.

    Returns:
        Number of runs that were taken over.
    """
    finished = [path.parent for path in sorted(stores.glob(f"*/{MANIFEST_FILE}"))]
    if not finished:
        return 0
    store = curate(replace(arguments, plan_only=True))
    for other in map(UpdateStore.open, finished):
        if _has_same_source_runs(store, other):
            missing = [k for k in store.shadow_sets("source") if not store.has("source", k)]
            for k in missing:
                store.write("source", k, other.read("source", k), other.info("source", k))
            return len(missing)
    return 0


def _has_same_source_runs(store: UpdateStore, other: UpdateStore) -> bool:
    own, others = ([block.slots for block in each.source_layout.blocks] for each in (store, other))
    return (
        own == others
        and all(store.plan.get(name) == other.plan.get(name) for name in SAME)
        and store.plan["units"]["source"] == other.plan["units"]["source"]
    )
