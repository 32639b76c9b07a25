"""InputDistance: how far a source update lies from those that a translator was trained on.

A translator answers whatever it is given; this says when the question was none it could have learnt. Two norms of the
standardised update are taken: inside the span of the shadow sets' principal components, whitened, and outside it. An
update can be strange in either way: too long or a blend that never occurred, or in directions that never occurred.
Each is compared with what updates had that were left out of the fit (``calibration``), and the worse one counts.

What it may not see: updates between the mean and the shadow sets, such as the zero update, adapters that were hardly
trained, or the mean of several clients, may lie nearer than any shadow set. And an update may lie among the shadow
sets' and still be of a task that the translator cannot carry over.

Axes: N blocks, D the size of the largest block, Q components. Source: ours; see ``calibration``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import DataError, LayoutError
from gradtx_hf.model import TokenStatistics
from gradtx_hf.translation.calibration import (
    RESIDUAL_FLOOR,
    fit_components,
    gram_matrix,
    measure_by_gram,
    measure_left_out,
    num_components,
    upper_limit,
)
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.partition import StoreView
from gradtx_hf.updates.store import UpdateStore


LEAST_SHADOW_SETS = 8
"""Fewer say nothing of how far the next one may lie."""
MAX_SHADOW_SETS = 1024
"""Most shadow sets that are fitted, and most that are held out; of more, as many spread over them."""


@dataclass(frozen=True, eq=False)
class InputDistance:
    """Distance of a source update to those of the shadow sets; made by ``fit``.

    Attributes:
        layout: What stands where in the updates.
        mean: ``[N, D]`` float32, mean of the fitted updates.
        std: ``[N, D]`` float32, one standard deviation per tensor, 1 in the padding.
        components: ``[Q, N, D]`` float16, orthogonal, mean square 1 over the elements; Q is 1 to 64.
        variances: ``[Q]`` float32, mean square of the fitted updates' scores.
        inside_limit: Most that the whitened norm inside the components has for updates like the shadow sets'.
        outside_limit: Most that the norm of the rest has.
        limit: Most that the distance has, > 1; of updates that were left out of the fit, the geometric mean is 1.
    """

    layout: BlockLayout
    mean: Tensor
    std: Tensor
    components: Tensor
    variances: Tensor
    inside_limit: float
    outside_limit: float
    limit: float

    @classmethod
    def fit(
        cls, store: UpdateStore | StoreView, *, fit_sets: Sequence[int], held_out_sets: Sequence[int]
    ) -> InputDistance:
        """Fit the distance to the last source update of every shadow set.

        Takes two to three times the memory of the updates read, at most 2 x 1,024 of them.

        Args:
            store: Where the updates are.
            fit_sets: Shadow sets that the translator is trained on, at least ``LEAST_SHADOW_SETS``.
            held_out_sets: Shadow sets kept from training; may be few or none. They calibrate the limit together
                with the fitted ones, which are left out in turns for it.

        Raises:
            DataError: If there are too few shadow sets, one is in both, or all updates are the same.
        """
        both = set(fit_sets) & set(held_out_sets)
        if both:
            raise DataError(f"shadow set {min(both)} is both fitted and held out, expected one of the two.")
        if len(fit_sets) < LEAST_SHADOW_SETS:
            raise DataError(
                f"got {len(fit_sets)} shadow sets to fit an input distance to, expected at least {LEAST_SHADOW_SETS}. "
                "Curate more (num_shadow_sets)."
            )
        fitted, held_out = _spread(fit_sets), _spread(held_out_sets)
        layout = store.source_layout
        mean, std = _statistics(store, fitted)
        updates = torch.stack([(store.snapshot("source", k, -1) - mean) / std for k in [*fitted, *held_out]]).flatten(1)
        gram = gram_matrix(updates, num_elements=layout.num_elements)
        if float(gram.diagonal()[: len(fitted)].max()) == 0:
            raise DataError("the source updates of all shadow sets are the same: there is no distance to them.")
        components = fit_components(gram[: len(fitted), : len(fitted)], most=num_components(len(fitted)))
        norms = measure_left_out(gram, num_fitted=len(fitted))
        those = torch.arange(len(fitted))
        own = measure_by_gram(gram, components, fitted=those, measured=those)
        # components fit noise of their own updates too: what was fitted is on the map, and may lie farther inside
        inside_limit = max(upper_limit(norms.inside), upper_limit(own.inside))
        outside_limit = upper_limit(norms.outside.clamp_min(RESIDUAL_FLOOR))
        ratios = torch.maximum(norms.inside / inside_limit, norms.outside / outside_limit)
        return cls(
            layout=layout,
            mean=mean,
            std=std,
            components=(components.weights.T.float() @ updates[: len(fitted)]).half().unflatten(1, mean.shape),
            variances=components.variances.float(),
            inside_limit=inside_limit,
            outside_limit=outside_limit,
            limit=math.exp(-float(ratios.clamp_min(1e-12).log().mean())),
        )

    def measure(self, tokens: Tensor) -> float:
        """Return the distance of one update to the shadow sets'; beyond ``limit`` it is none like theirs.

        Args:
            tokens: ``[N, D]``, aligned to the translator's start, zero in the padding.

        Returns:
            A finite number >= 0; around 1 for updates like the shadow sets'.

        Raises:
            LayoutError: If the tokens are of another shape, or not finite.
        """
        if tokens.shape != self.mean.shape or not bool(tokens.isfinite().all()):
            raise LayoutError(
                f"got tokens of shape {list(tokens.shape)} to measure, expected finite ones of {list(self.mean.shape)}."
            )
        standardised = ((tokens.double().cpu() - self.mean) / self.std).flatten()
        size = float(standardised.abs().max())
        if size == 0:
            return 0.0
        direction = (standardised / size).float()  # so that squares of huge updates stay finite
        components = self.components.float().flatten(1)
        scores = components @ direction / self.layout.num_elements  # [Q]
        rest = direction - scores @ components
        inside = (scores.square() / self.variances).mean()
        outside = rest.square().sum() / self.layout.num_elements
        worse = max(float(inside.sqrt()) / self.inside_limit, float(outside.sqrt()) / self.outside_limit)
        return self.limit * size * worse

    def describe_excess(self, distance: float, *, what: str) -> str | None:
        """Return one line to warn with, or None where a distance is within the limit.

        Args:
            distance: What ``measure`` gave.
            what: What was measured, such as ``adapter 'me/tiny'``.
        """
        if distance <= self.limit:
            return None
        return (
            f"{what} lies off the map: its update is {distance / self.limit:.3g} times as far from the shadow sets' as "
            f"any like them would be (distance {distance:.3g}, limit {self.limit:.3g}). Its translation may be "
            "worthless: train it as the provider trained the shadow sets, or check the result on data of your own."
        )


def _spread(shadow_sets: Sequence[int]) -> list[int]:
    """Return at most ``MAX_SHADOW_SETS`` of some, evenly spread over them."""
    step = max(1.0, len(shadow_sets) / MAX_SHADOW_SETS)
    return [shadow_sets[int(i * step)] for i in range(min(len(shadow_sets), MAX_SHADOW_SETS))]


def _statistics(store: UpdateStore | StoreView, shadow_sets: Sequence[int]) -> tuple[Tensor, Tensor]:
    statistics = TokenStatistics(store.source_layout)
    for shadow_set in shadow_sets:
        statistics.update(store.snapshot("source", shadow_set, -1)[None])
    return statistics.result()
