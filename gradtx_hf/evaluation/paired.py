"""A paired permutation test: would one method lead another as much, if their scores were swapped by chance?

Under the null hypothesis both methods are exchangeable in every unit, a task or an example, so that the sign of each
unit's difference is a coin's (Fisher 1935). Axes: C clients, U units. Source: ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import product

import numpy as np


MOST_EXACT_UNITS = 12
"""Up to so many units all signs are tried (ours); beyond, ``NUM_FLIPS`` random ones."""
NUM_FLIPS = 9999
TOLERANCE = 1e-12


def sign_flip_p(differences: np.ndarray, *, seed: int) -> float:
    """Return the two-sided p of a sum of differences.

    Args:
        differences: One for each unit, ``[U]``.
        seed: Seed of the random signs, where there are too many units for all.

    Returns:
        The share of signs that give a sum as far from 0, the signs found among them; with U units that differ at
        least 2 / 2^U. It is 1 where nothing differs.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    if len(sizes) <= MOST_EXACT_UNITS:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sizes))))
        return float(np.mean(np.abs(signs @ sizes) >= abs(differences.sum()) - TOLERANCE))
    generator = np.random.default_rng(seed)
    kinds, counts = np.unique(sizes, return_counts=True)  # few, where scores are 0 or 1
    num_positive = generator.binomial(counts, 0.5, size=(NUM_FLIPS, len(kinds)))
    as_far = int(np.sum(np.abs((2 * num_positive - counts) @ kinds) >= abs(differences.sum()) - TOLERANCE))
    return (1 + as_far) / (1 + NUM_FLIPS)


def sums_by(units: Sequence[Hashable], differences: np.ndarray) -> np.ndarray:
    """Return the sum of differences ``[C]`` of every unit, ``[U]``."""
    names = list(dict.fromkeys(units))
    return np.array([sum(d for unit, d in zip(units, differences, strict=True) if unit == name) for name in names])


def sums_by_example(differences: Sequence[np.ndarray], test_sets: Sequence[Hashable]) -> np.ndarray:
    """Return what every example adds to the mean over clients, ``[U]``.

    Args:
        differences: Each client's differences by example, ``[N]``.
        test_sets: What each client's examples are called; those of one name are the same and become one unit each.
    """
    sums: dict[Hashable, np.ndarray] = {}
    for test_set, difference in zip(test_sets, differences, strict=True):
        sums[test_set] = sums.get(test_set, 0.0) + difference / len(difference)
    return np.concatenate(list(sums.values()))
