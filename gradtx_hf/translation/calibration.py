"""Principal components of updates, and how far updates that were left out lie from them, by inner products alone.

There are fewer updates than elements, so everything is worked out in the dual: all that is needed of M standardised
updates is the Gram matrix ``[M, M]``, whose entry (i, j) is the mean over the elements of update i times update j.

A principal component of n updates fits their noise too, so the updates it was made of lie closer than any new one.
Hence what counts as far is measured on updates that were left out: in five folds, each measured by the components of
the others, and on held-out shadow sets.

Axes: M updates, F of them fitted, Q components, E elements. Source: probabilistic PCA (Tipping and Bishop 1999),
Gram form as in kernel PCA (Schölkopf et al. 1998); the two norms and their limits are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


NUM_FOLDS = 5
MAX_COMPONENTS = 64
UPDATES_PER_COMPONENT = 5
"""With fewer updates per component, the last components are little but noise of those updates."""
LEAST_VARIANCE = 1e-5
"""Least variance of a component relative to the whole variance; below it lies rounding."""
LEVEL = 0.9975
"""Share of the updates like the shadow sets' that each of the two norms is to leave below its limit."""
LEAST_MARGIN = 1.1
"""Least limit relative to a typical norm: among large updates that are all alike, rounding a client's would be far."""
PIECE = 8192
"""Elements whose products are summed up in the updates' own format; longer sums would lose digits."""
RESIDUAL_FLOOR = 0.02
"""Least norm outside the components that counts, in standard deviations; below it may lie rounding alone."""


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components as combinations of the fitted updates.

    Attributes:
        weights: ``[F, Q]`` float64: component q is the sum over f of ``weights[f, q]`` times update f; its elements
            have mean square 1.
        variances: ``[Q]`` float64: mean square of the fitted updates' scores on it, largest first.
    """

    weights: Tensor
    variances: Tensor


@dataclass(frozen=True, eq=False)
class Norms:
    """How far updates lie from the mean of the fitted ones, inside and outside the span of their components.

    Attributes:
        inside: ``[M]`` root mean square of the whitened scores; 1 on average over the fitted updates.
        outside: ``[M]`` root mean square, over the elements, of what the components leave.
    """

    inside: Tensor
    outside: Tensor


def num_components(num_updates: int) -> int:
    """Return how many components are fitted to a number of updates at most."""
    return min(MAX_COMPONENTS, num_updates // UPDATES_PER_COMPONENT)


def gram_matrix(updates: Tensor, *, num_elements: int) -> Tensor:
    """Return the Gram matrix ``[M, M]`` float64 of updates ``[M, E]``, summed up piece by piece in float64.

    Args:
        updates: Standardised updates, zero in the padding.
        num_elements: Number of elements that the means are taken over, padding not counted.
    """
    gram = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for piece in updates.split(PIECE, dim=1):
        gram += (piece @ piece.T).double()
    return gram / num_elements


def fit_components(gram: Tensor, *, most: int) -> Components:
    """Fit components to all updates of a Gram matrix ``[F, F]``, at most ``most`` of them."""
    row_mean = gram.mean(dim=1)
    centred = gram - row_mean - row_mean[:, None] + gram.mean()
    variances, vectors = torch.linalg.eigh(centred / len(gram))
    variances, vectors = variances.flip(0)[:most], vectors.flip(1)[:, :most]
    kept = variances > LEAST_VARIANCE * centred.diagonal().mean()
    variances, vectors = variances[kept], vectors[:, kept]
    return Components(vectors / (len(gram) * variances).sqrt(), variances)


def measure_by_gram(gram: Tensor, components: Components, *, fitted: Tensor, measured: Tensor) -> Norms:
    """Measure updates of a Gram matrix by components that were fitted to others of it.

    Args:
        gram: ``[M, M]``.
        components: Fitted to ``gram[fitted][:, fitted]``.
        fitted: Indices of the fitted updates.
        measured: Indices of the updates to measure.
    """
    inner = gram[fitted][:, fitted]
    across = gram[measured][:, fitted]
    size = gram.diagonal()[measured] - 2 * across.mean(dim=1) + inner.mean()  # mean square of update - mean
    scores = (across - inner.mean(dim=0)) @ components.weights  # weights sum to 0: the mean drops out of the columns
    inside = (scores.square() / components.variances).sum(dim=1) / max(1, len(components.variances))
    outside = (size - scores.square().sum(dim=1)).clamp_min(0)
    return Norms(inside.sqrt(), outside.sqrt())


def measure_left_out(gram: Tensor, *, num_fitted: int) -> Norms:
    """Measure every update by components that it had no part in.

    The first ``num_fitted`` are taken in turns, in five folds; any further ones are measured by all of these.

    Args:
        gram: ``[M, M]``, the updates to fit first.
        num_fitted: Number of updates to fit.

    Returns:
        The norms of all M updates, in no particular order.
    """
    order = torch.randperm(num_fitted, generator=torch.Generator().manual_seed(0))
    folds = order.tensor_split(NUM_FOLDS)
    splits = [(torch.cat([*folds[:k], *folds[k + 1 :]]), folds[k]) for k in range(NUM_FOLDS)]
    if num_fitted < len(gram):
        splits.append((torch.arange(num_fitted), torch.arange(num_fitted, len(gram))))
    most = num_components(num_fitted)
    norms = [
        measure_by_gram(gram, fit_components(gram[fitted][:, fitted], most=most), fitted=fitted, measured=measured)
        for fitted, measured in splits
    ]
    return Norms(torch.cat([n.inside for n in norms]), torch.cat([n.outside for n in norms]))


def upper_limit(norms: Tensor) -> float:
    """Return what the norm of one more update of the same kind stays below, in all but a quarter per cent of cases.

    The limit of a prediction interval of the norms' logarithms, which are nearly normal: with few norms it is wider,
    while a quantile of few norms would be little more than the largest of them. Where there are enough norms that
    their 99 % quantile says something, and it lies higher, the logarithms have a longer tail, and it counts. It lies
    a tenth above the typical norm at least.

    Args:
        norms: ``[M]``, M at least 2.
    """
    logarithms = norms.double().clamp_min(1e-12).log()
    spread = float(logarithms.std()) * math.sqrt(1 + 1 / len(norms))
    margin = max(_student_quantile(len(norms) - 1) * spread, math.log(LEAST_MARGIN))
    return math.exp(max(float(logarithms.mean()) + margin, float(logarithms.quantile(0.99))))


def _student_quantile(degrees: int) -> float:
    """Return the quantile of Student's t at ``LEVEL`` (Cornish and Fisher's series; to 0.3 % from 7 degrees on)."""
    z = NormalDist().inv_cdf(LEVEL)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
