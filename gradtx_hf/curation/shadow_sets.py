"""Which rows of which corpus each shadow set holds, from a seed alone.

Source: paper Sec. 3 (random shadow sets of the public data); mixtures over several corpora are ours.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradtx_hf.errors import DataError


Mixture = Literal["single", "weights", "dirichlet"]


@dataclass(frozen=True)
class Corpus:
    """What the plan needs to know of a corpus.

    Attributes:
        label: What it is called in the plan and in messages.
        num_rows: Number of its examples.
    """

    label: str
    num_rows: int


def plan_shadow_sets(
    corpora: Sequence[Corpus],
    *,
    num_shadow_sets: int,
    samples_per_set: int,
    shares: Sequence[Sequence[float]],
    seed: int,
) -> list[dict[str, list[int]]]:
    """Draw the rows of every shadow set, without replacement within a set.

    Args:
        corpora: The corpora.
        num_shadow_sets: Number of shadow sets K.
        samples_per_set: Rows of each.
        shares: Each set's share of every corpus, from ``mixture_shares``.
        seed: Seed of the drawing; set k is the same however many there are.

    Returns:
        For each set, corpus label to row numbers; corpora without a row are left out.

    Raises:
        DataError: If a corpus has fewer rows than a set needs.
    """
    planned = []
    for k in range(num_shadow_sets):
        generator = random.Random(f"rows of shadow set {k}, seed {seed}")
        counts = _whole_numbers(shares[k], samples_per_set)
        rows = {}
        for corpus, count in zip(corpora, counts, strict=True):
            if count > corpus.num_rows:
                raise DataError(
                    f"corpus '{corpus.label}' has {corpus.num_rows} rows, shadow set {k} needs {count}. Lower "
                    "samples_per_set, or give more data."
                )
            if count:
                rows[corpus.label] = generator.sample(range(corpus.num_rows), count)
        planned.append(rows)
    return planned


def mixture_shares(
    mixture: Mixture,
    *,
    num_corpora: int,
    num_shadow_sets: int,
    weights: Sequence[float] | None,
    dirichlet_alpha: float,
    seed: int,
) -> list[list[float]]:
    """Return each shadow set's share of every corpus.

    Args:
        mixture: ``single``: one corpus per set, in turn. ``weights``: the same shares in every set. ``dirichlet``:
            shares drawn anew for each set.
        num_corpora: Number of corpora.
        num_shadow_sets: Number of shadow sets.
        weights: Shares for ``weights``, up to a factor.
        dirichlet_alpha: Concentration for ``dirichlet``: near 0 a set has one corpus, far above 1 all alike.
        seed: Seed of the drawing.
    """
    if mixture == "single":
        return [[float(c == k % num_corpora) for c in range(num_corpora)] for k in range(num_shadow_sets)]
    if mixture == "weights":
        total = sum(weights or [])
        return [[weight / total for weight in weights or []] for _ in range(num_shadow_sets)]
    shares = []
    for k in range(num_shadow_sets):
        generator = random.Random(f"mixture of shadow set {k}, seed {seed}")
        # Very small alphas can round every draw to zero; the floor keeps the shares defined.
        drawn = [max(generator.gammavariate(dirichlet_alpha, 1.0), 1e-300) for _ in range(num_corpora)]
        shares.append([value / sum(drawn) for value in drawn])
    return shares


def choose_target_sets(
    num_target_runs: int | None, *, mixture: Mixture, num_corpora: int, num_shadow_sets: int, seed: int
) -> list[int]:
    """Choose the shadow sets that get a target run.

    Args:
        num_target_runs: How many; None, or more than there are, means all.
        mixture: With ``single`` every corpus gets a run before one gets a second: sets of a round over the corpora
            come before those of the next. Else all sets are alike.
        num_corpora: Number of corpora.
        num_shadow_sets: Number of shadow sets.
        seed: Seed of the drawing; more runs add to the sets of fewer.

    Returns:
        Numbers of shadow sets, ascending.
    """
    sets_per_round = num_corpora if mixture == "single" else num_shadow_sets

    def place(k: int) -> tuple[int, float]:
        return k // sets_per_round, random.Random(f"target run of shadow set {k}, seed {seed}").random()

    return sorted(sorted(range(num_shadow_sets), key=place)[:num_target_runs])


def run_seed(seed: int, side: str, shadow_set: int) -> int:
    """Return the seed of one run, in [0, 2³²): it depends on nothing else."""
    digest = hashlib.sha256(f"{seed} {side} {shadow_set}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _whole_numbers(shares: Sequence[float], total: int) -> list[int]:
    """Round shares of a total to whole numbers with that sum: the largest remainders are rounded up."""
    exact = [share * total for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
