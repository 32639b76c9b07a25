"""What a store holds, as JSON values: for ``gradtx store stat``, and for the card of its repository."""

from __future__ import annotations

from typing import Any

from gradtx_hf.errors import GradTxError
from gradtx_hf.lora import load_adapter
from gradtx_hf.updates.shard import read_header
from gradtx_hf.updates.store import MANIFEST_FILE, SIDES, Side, UpdateStore


INIT_FOLDERS: dict[Side, str] = {"source": "source_init", "target": "target_init"}
"""The folder of each side's initial adapter."""


def describe_store(store: UpdateStore) -> dict[str, Any]:
    """Return what a store holds; sizes in bytes.

    Args:
        store: A store, complete or not (``UpdateStore.resume``). ``pairs`` and ``different_snapshots``, which need
            the manifest, are None of one that is not complete.

    Returns:
        Of both sides, among others, the ``snapshots`` that are there, with their duplicates.

    Raises:
        StoreError: If the manifest or a shard is damaged.
    """
    paths = {side: [store.shard_path(side, k) for k in store.shadow_sets(side)] for side in SIDES}
    present = {side: [path for path in paths[side] if path.is_file()] for side in SIDES}
    is_complete = (store.folder / MANIFEST_FILE).is_file() and present == paths
    return {
        "store": str(store.folder),
        "complete": is_complete,
        "shadow_sets": store.num_shadow_sets,
        "pairs": len(store.pairs) if is_complete else None,
        "different_snapshots": len(store.source_snapshots) if is_complete else None,
        "dtype": str(store.dtype).removeprefix("torch."),
        "bytes": sum(path.stat().st_size for side in SIDES for path in present[side]),
        "corpora": [corpus["label"] for corpus in store.plan.get("corpora", [])],
        **{
            side: {
                "base_model": None,
                "base_revision": None,
                **_describe_base_model(store, side),
                "runs": len(present[side]),
                "planned_runs": len(paths[side]),
                "snapshots": sum(read_header(path).shape[0] for path in present[side]),
                "num_blocks": store.layout(side).num_blocks,
                "block_dim": store.layout(side).block_dim,
                "layout": store.layout(side).fingerprint,
            }
            for side in SIDES
        },
    }


def _describe_base_model(store: UpdateStore, side: Side) -> dict[str, str | None]:
    """Return what the initial adapter says of its base model; nothing where there is none that can be read."""
    try:
        init = load_adapter(store.folder / INIT_FOLDERS[side])
    except GradTxError:
        return {}
    return {"base_model": init.base_model or None, "base_revision": init.config.revision}
