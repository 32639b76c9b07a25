"""Which runs of a side are fine-tuned together: fixed by the plan alone, so that every start of a curation agrees.

Source: ours.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk

from gradtx_hf.curation.arguments import AUTO, CurationArguments
from gradtx_hf.curation.initial import SideSettings, initial_adapter
from gradtx_hf.curation.pack_size import LARGEST, try_pack_sizes
from gradtx_hf.curation.units import tokenized_runs
from gradtx_hf.updates.store import PLAN_FILE, SIDES, Side, UpdateStore


def choose_packs(
    plan: Mapping[str, Any],
    arguments: CurationArguments,
    examples: Mapping[str, Dataset],
    settings: Mapping[Side, SideSettings],
) -> dict[str, Any]:
    """Return what a plan says of packs: ``pack``, the size on each side, and ``units``, the shadow sets of every pack.

    A size that is to be tried out is taken from the store's own plan where there is one.

    Args:
        plan: The plan without them.
        arguments: What to do; the initial adapters are there.
        examples: The corpora by label.
        settings: Both sides' settings.
    """
    folder = Path(arguments.output_dir)
    recorded = UpdateStore.resume(folder).plan.get("pack") if (folder / PLAN_FILE).is_file() else None
    sizes: dict[Side, int] = {}
    packs: dict[Side, list[list[int]]] = {}
    for side, asked in zip(SIDES, (arguments.pack, arguments.target_pack), strict=True):
        sets = list(range(plan["num_shadow_sets"])) if side == "source" else plan["target_shadow_sets"]
        if asked != AUTO:
            sizes[side] = int(asked)
        elif recorded is not None:
            sizes[side] = recorded[side]
        else:
            sizes[side] = _best_size(plan, side, sets, examples, settings[side], arguments)
        packs[side] = plan_packs(sets, pack=sizes[side])
    return {"pack": sizes, "units": packs}


def plan_packs(shadow_sets: Sequence[int], *, pack: int) -> list[list[int]]:
    """Divide the shadow sets that have a run of a side into packs of neighbours, as few and as even as can be.

    Args:
        shadow_sets: Numbers of the sets, whether their runs are done or not.
        pack: Most runs of a pack, at least 1.

    Returns:
        The sets of every pack, in order.
    """
    num_packs = math.ceil(len(shadow_sets) / pack)
    bounds = [len(shadow_sets) * i // num_packs for i in range(num_packs + 1)] if num_packs else []
    return [list(shadow_sets[begin:end]) for begin, end in itertools.pairwise(bounds)]


def _best_size(
    plan: Mapping[str, Any],
    side: Side,
    sets: Sequence[int],
    examples: Mapping[str, Dataset],
    settings: SideSettings,
    arguments: CurationArguments,
) -> int:
    """Try sizes on the first shadow sets of a side; not so large that a worker would be idle."""
    num_workers = arguments.num_workers
    tried = sets[: min(LARGEST, math.ceil(len(sets) / num_workers))]
    if len(tried) <= 1:
        return 1
    with tempfile.TemporaryDirectory(prefix="gradtx-") as scratch:
        (runs,) = tokenized_runs(plan, side, [tried], settings, examples, Path(scratch))
        return try_pack_sizes(
            side,
            settings,
            initial_adapter(Path(arguments.output_dir), side),
            runs=runs,
            tokens=load_from_disk(scratch),
            num_workers=num_workers,
        )
