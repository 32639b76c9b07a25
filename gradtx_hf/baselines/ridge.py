"""Ridge regression from source tokens to target tokens: the linear translator in closed form.

Tokens are standardised: the mean over shadow sets is taken off every element, and every tensor is divided by its
scale (see ``shadow_statistics``). Shadow sets are far fewer than elements, so the regression is solved in its dual
form, a K x K system. A prediction is the mean target update plus a weighted sum of the shadows' deviations from it;
the target's scales cancel there and only weigh the error by which the strength is chosen.

Axes: K shadow sets, N blocks, D the size of the largest block. Source: ours (control).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.baselines.shadows import (
    PairedUpdates,
    last_pairs,
    require_source_tokens,
    shadow_statistics,
)
from gradtx_hf.errors import StoreError
from gradtx_hf.updates.store import Side


RIDGE_STRENGTHS = (1e2, 3e1, 1e1, 3.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-6)
"""Candidate strengths, strongest first, in units of the kernel's mean diagonal element (ours)."""


@dataclass(frozen=True, eq=False)
class RidgeMap:
    """A fitted ridge regression; it holds the shadows' last source updates, the target updates stay in the store.

    Attributes:
        store: Where the target updates lie; read again by every prediction, one update at a time.
        source_mean: ``[N_S, D_S]``, float64.
        source_scale: ``[N_S, D_S]``, float64.
        target_mean: ``[N_T, D_T]``, float64.
        source_tokens: Standardised source updates ``[K, N_S, D_S]``, float32.
        inverse: Inverse of the regularised kernel ``[K, K]``, float64.
        strength: The strength chosen.
        left_out_error: Squared error of the standardised target updates, each predicted from the other shadow sets,
            over their variance; 0 is exact, 1 what the mean of all shadow sets scores.
    """

    store: PairedUpdates
    source_mean: Tensor
    source_scale: Tensor
    target_mean: Tensor
    source_tokens: Tensor
    inverse: Tensor
    strength: float
    left_out_error: float

    @classmethod
    def fit(cls, store: PairedUpdates, *, strength: float | None = None) -> RidgeMap:
        """Fit on the last pair of every shadow set, with the strength that predicts left-out shadow sets best.

        Memory: 4 · K · N_S · D_S bytes, kept, and 4 · K · N_T · D_T bytes while fitting. Time: K² products of
        updates and one eigenvalue problem of size K.

        Args:
            store: Where the shadow updates lie.
            strength: A strength that was chosen otherwise, in units of the kernel's mean diagonal element.

        Raises:
            StoreError: If the store holds pairs of fewer than two shadow sets.
        """
        if len(last_pairs(store)) < 2:
            raise StoreError("ridge regression needs pairs of at least two shadow sets, got one.")
        source_mean, source_scale = shadow_statistics(store, "source")
        target_mean, target_scale = shadow_statistics(store, "target")
        source = standardised(store, "source", source_mean, source_scale)
        kernel = gram(source)
        target_gram = gram(standardised(store, "target", target_mean, target_scale))
        unit = float(kernel.diagonal().mean()) or 1.0
        candidates = RIDGE_STRENGTHS if strength is None else (strength,)
        penalties = [candidate * unit for candidate in candidates]
        errors = left_out_errors(kernel, target_gram, penalties=penalties)
        best = min(range(len(errors)), key=errors.__getitem__)
        identity = torch.eye(len(kernel), dtype=torch.float64)
        return cls(
            store=store,
            source_mean=source_mean,
            source_scale=source_scale,
            target_mean=target_mean,
            source_tokens=source,
            inverse=torch.linalg.inv(kernel + penalties[best] * identity),
            strength=candidates[best],
            left_out_error=errors[best] / (float(target_gram.trace()) or 1.0),
        )

    def predict(self, source_tokens: Tensor) -> Tensor:
        """Predict the target update of a client.

        Args:
            source_tokens: The client's update ``[N_S, D_S]``.

        Returns:
            Target tokens ``[N_T, D_T]``, float32.

        Raises:
            LayoutError: If the client's tokens are of another shape or not finite.
        """
        return self.mixed(self.weights(source_tokens))

    def weights(self, source_tokens: Tensor) -> Tensor:
        """Return what each shadow set counts in the prediction of a client's update.

        Args:
            source_tokens: The client's update ``[N_S, D_S]``.

        Returns:
            ``[K]``, float64.

        Raises:
            LayoutError: If the client's tokens are of another shape or not finite.
        """
        require_source_tokens(source_tokens, self.store.source_layout)
        client = (source_tokens.double().cpu() - self.source_mean) / self.source_scale
        similarities = torch.zeros(len(self.source_tokens), dtype=torch.float64)  # [K]
        for n, block in enumerate(client):
            similarities += self.source_tokens[:, n].double() @ block
        return self.inverse @ similarities

    def mixed(self, weights: Tensor) -> Tensor:
        """Return the mean target update plus a weighted sum of the shadows' deviations from it.

        Args:
            weights: ``[K]``, float64.

        Returns:
            Target tokens ``[N_T, D_T]``, float32.
        """
        predicted = self.target_mean * (1 - weights.sum())
        for weight, pair in zip(weights, last_pairs(self.store), strict=True):
            predicted += weight * self.store.snapshot("target", *pair).double()
        return predicted.float()


def left_out_errors(kernel: Tensor, target_gram: Tensor, *, penalties: Sequence[float]) -> list[float]:
    """Compute the leave-one-shadow-set-out error of ridge regression in closed form.

    With the hat matrix H = 1/K + Kernel (Kernel + penalty I)⁻¹, the error of left-out set k is row k of (I - H) Y
    divided by 1 - H_kk. Mean and scales of the standardisation are those of all sets; the mean is refitted without
    set k by the term 1/K, the scales are not.

    Args:
        kernel: Inner products of the centred source updates ``[K, K]``, float64.
        target_gram: Inner products of the centred target updates ``[K, K]``, float64.
        penalties: Ridge penalties, positive.

    Returns:
        For each penalty the sum of squared errors over shadow sets and elements.
    """
    size = len(kernel)
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp_min(0.0)
    errors = []
    for penalty in penalties:
        hat = 1 / size + (vectors * (values / (values + penalty))) @ vectors.T
        residual = torch.eye(size, dtype=kernel.dtype) - hat  # [K, K]
        squares = (residual @ target_gram * residual).sum(1)  # [K]
        errors.append(float((squares / residual.diagonal().square()).sum()))
    return errors


def standardised(store: PairedUpdates, side: Side, mean: Tensor, scale: Tensor) -> Tensor:
    """Read the last paired updates of one side, standardised, ``[K, N, D]`` float32."""
    return torch.stack([((store.snapshot(side, *pair).double() - mean) / scale).float() for pair in last_pairs(store)])


def gram(tokens: Tensor) -> Tensor:
    """Return the inner products ``[K, K]`` of updates ``[K, N, D]``, in float64, one block at a time."""
    products = torch.zeros(len(tokens), len(tokens), dtype=torch.float64)
    for n in range(tokens.shape[1]):
        block = tokens[:, n].double()
        products += block @ block.T
    return products
