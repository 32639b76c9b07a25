"""A linear map of low rank between updates: what a few directions of the source updates say of the target's.

Reduced-rank ridge regression: the best map of a rank for the ridge's loss keeps the leading principal directions of
what the ridge fits. All is done in the dual form, on K x K matrices: a prediction is again a weighted sum of the
shadows' target updates. Rank and ridge strength are those that predict left-out shadow sets best, fold by fold.

Axes: K shadow sets. Source: ours (rival); reduced-rank ridge regression after Mukherjee & Zhu 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.baselines.ridge import RIDGE_STRENGTHS, RidgeMap, gram, standardised
from gradtx_hf.baselines.shadows import PairedUpdates, last_pairs, shadow_statistics
from gradtx_hf.errors import StoreError


RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Candidate ranks."""
NUM_FOLDS = 5
ROUNDING = 1e-6
"""Share of the variance by which errors differ for no reason: of these ranks the lowest is taken."""
SMALLEST_SHARE = 1e-10
"""Of the largest eigenvalue; what is below counts as none."""


@dataclass(frozen=True, eq=False)
class LowRankMap:
    """A fitted map.

    Attributes:
        ridge: The regression that it is a part of.
        projection: What it makes of the ridge's weights ``[K, K]``, float64.
        rank: The rank chosen.
        left_out_error: Squared error of left-out standardised target updates over their variance.
    """

    ridge: RidgeMap
    projection: Tensor
    rank: int
    left_out_error: float

    @classmethod
    def fit(cls, store: PairedUpdates) -> LowRankMap:
        """Fit on the last pair of every shadow set. Memory as ``RidgeMap.fit``, and a few K x K matrices.

        Args:
            store: Where the shadow updates lie.

        Raises:
            StoreError: If the store holds pairs of fewer shadow sets than folds.
        """
        size = len(last_pairs(store))
        if size < NUM_FOLDS:
            raise StoreError(f"a low-rank map needs pairs of at least {NUM_FOLDS} shadow sets, got {size}.")
        kernel = gram(standardised(store, "source", *shadow_statistics(store, "source")))
        target_gram = gram(standardised(store, "target", *shadow_statistics(store, "target")))
        errors = left_out_errors_by_rank(kernel, target_gram)
        variance = float(target_gram.trace()) or 1.0
        bound = min(errors.values()) + ROUNDING * variance
        strength, rank = min((key for key in errors if errors[key] <= bound), key=lambda key: key[1])
        ridge = RidgeMap.fit(store, strength=strength)
        _, projection = _fit(kernel, target_gram, strength=strength, rank=rank)
        return cls(ridge, projection, rank, errors[strength, rank] / variance)

    def predict(self, source_tokens: Tensor) -> Tensor:
        """Predict the target update of a client.

        Args:
            source_tokens: The client's update ``[N_S, D_S]``.

        Returns:
            Target tokens ``[N_T, D_T]``, float32.

        Raises:
            LayoutError: If the client's tokens are of another shape or not finite.
        """
        return self.ridge.mixed(self.projection @ self.ridge.weights(source_tokens))


def left_out_errors_by_rank(kernel: Tensor, target_gram: Tensor) -> dict[tuple[float, int], float]:
    """Return (strength, rank) to the squared error of shadow sets that were left out, fold by fold.

    Args:
        kernel: Inner products of the centred source updates ``[K, K]``, float64.
        target_gram: Inner products of the centred target updates ``[K, K]``, float64.

    Returns:
        Sums over shadow sets and elements; of ranks below the number of shadow sets that are fitted to. Of equal
        errors, the first is that of the strongest penalty and the lowest rank.
    """
    numbers = torch.arange(len(kernel))
    folds = [numbers % NUM_FOLDS == fold for fold in range(NUM_FOLDS)]
    smallest = min(int((~left_out).sum()) for left_out in folds)
    errors: dict[tuple[float, int], float] = {}
    for strength in RIDGE_STRENGTHS:
        for rank in [rank for rank in RANKS if rank < smallest] or [1]:
            errors[strength, rank] = sum(
                _error_of_fold(kernel, target_gram, left_out, strength=strength, rank=rank) for left_out in folds
            )
    return errors


def _error_of_fold(kernel: Tensor, target_gram: Tensor, left_out: Tensor, *, strength: float, rank: int) -> float:
    """Return the squared error of the left-out sets, predicted from the others, centred on these."""
    kept = ~left_out
    num_kept = int(kept.sum())
    # deviations from the mean of the kept: rows of C = I - 1·m^T, with m the mean's weights
    centring = torch.eye(len(kernel), dtype=kernel.dtype) - kept.to(kernel.dtype) / num_kept
    sources, targets = centring @ kernel @ centring.T, centring @ target_gram @ centring.T
    inverse, projection = _fit(sources[kept][:, kept], targets[kept][:, kept], strength=strength, rank=rank)
    weights = projection @ inverse @ sources[kept][:, left_out]  # [kept, left out]
    own = targets[left_out][:, left_out].diagonal().sum()
    crossed = (weights * targets[kept][:, left_out]).sum()
    predicted = (weights * (targets[kept][:, kept] @ weights)).sum()
    return float(own - 2 * crossed + predicted)


def _fit(kernel: Tensor, target_gram: Tensor, *, strength: float, rank: int) -> tuple[Tensor, Tensor]:
    """Return the inverse of the regularised kernel, and the projection of weights to a rank, each ``[K, K]``.

    With the hat matrix H = Kernel (Kernel + penalty I)⁻¹, the directions kept are the leading eigenvectors V of
    Y^T H Y: the fitted updates of the problem to which the penalty is added as rows. With the eigenvalues Λ and
    eigenvectors U of H^½ G H^½, where G = Y Y^T, these are V = Y^T H^½ U Λ^(-½), and a prediction w^T Y becomes
    w^T Y V V^T = (H^½ U Λ⁻¹ U^T H^½ G w)^T Y.
    """
    unit = float(kernel.diagonal().mean()) or 1.0
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0.0)
    penalised = values + strength * unit
    root = (vectors * (values / penalised).sqrt()) @ vectors.T  # H^½
    shares, directions = torch.linalg.eigh(root @ target_gram @ root)
    shares, directions = shares[-rank:], directions[:, -rank:]
    inverted = torch.where(shares > SMALLEST_SHARE * shares[-1].clamp_min(0), 1 / shares, 0.0)
    return (vectors / penalised) @ vectors.T, root @ (directions * inverted) @ directions.T @ root @ target_gram
