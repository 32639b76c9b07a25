"""Which runs of a side are fine-tuned together: fixed by the plan alone, so that every start of a curation agrees.

Source: ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def plan_packs(shadow_sets: Sequence[int], *, pack: int) -> list[tuple[int, ...]]:
    """Divide the shadow sets that have a run of a side into packs of neighbours, as few and as even as can be.

    Args:
        shadow_sets: Numbers of the sets, whether their runs are done or not.
        pack: Most runs of a pack, at least 1.

    Returns:
        The sets of every pack, in order.
    """
    num_packs = math.ceil(len(shadow_sets) / pack)
    bounds = [len(shadow_sets) * i // num_packs for i in range(num_packs + 1)] if num_packs else []
    return [tuple(shadow_sets[begin:end]) for begin, end in itertools.pairwise(bounds)]
