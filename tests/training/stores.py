"""Real update stores for the tests of training, with a target that is a linear map of the source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gradtx_hf.updates.store import UpdateStore
from tests.model.blocks import make_layout


def write_linear_store(
    folder: Path,
    *,
    num_shadow_sets: int,
    num_snapshots: int = 2,
    width: int = 4,
    target_sets: Sequence[int] | None = None,
    store_dtype: str | None = None,
) -> UpdateStore:
    """Write random source updates, and the targets that one fixed linear map makes of them.

    Each shadow set is a point in three dimensions; its snapshots lie close to it, as those of a real run do. Only
    ``target_sets`` have a target run; None: all. ``store_dtype``: what the plan says of it; None: nothing.
    """
    generator = torch.Generator().manual_seed(0)
    layouts = {"source": make_layout(3, width), "target": make_layout(4, width + 1)}
    with_target = range(num_shadow_sets) if target_sets is None else target_sets
    codes = torch.randn(num_shadow_sets, 1, 3, generator=generator)
    codes = codes + 0.05 * torch.randn(num_shadow_sets, num_snapshots, 3, generator=generator)
    store = UpdateStore.create(
        folder,
        plan={"num_shadow_sets": num_shadow_sets, "target_shadow_sets": list(with_target)}
        | ({} if store_dtype is None else {"store_dtype": store_dtype}),
        source_layout=layouts["source"],
        target_layout=layouts["target"],
    )
    for side, scale in (("source", 0.01), ("target", 3.0)):
        layout = layouts[side]
        spread = scale * torch.randn(3, layout.num_blocks * layout.block_dim, generator=generator)
        for shadow_set in range(num_shadow_sets) if side == "source" else with_target:
            tokens = (codes[shadow_set] @ spread + 1.0).unflatten(1, (layout.num_blocks, layout.block_dim))
            store.write(side, shadow_set, tokens * layout.mask(), {})  # type: ignore[arg-type]
    store.finish()
    return UpdateStore.open(folder)
