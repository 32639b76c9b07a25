"""Nearest shadow: the target update of the shadow set whose source update is nearest to the client's.

Distance is Euclidean over the source tokens with every tensor divided by its scale: one number per tensor of the
layout, the root mean square deviation from the mean over shadow sets (see ``shadow_statistics``).
Axes: N blocks, D the size of the largest block. Source: ours (control).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gradtx_hf.baselines.shadows import PairedUpdates, last_pairs, require_source_tokens, shadow_statistics


@dataclass(frozen=True, eq=False)
class NearestShadow:
    """A look-up among the shadow sets' last updates, which stay in the store.

    Attributes:
        store: Where the shadow updates lie; read again by every prediction, one update at a time.
        source_scale: Scale of each tensor, spread over its elements, ``[N_S, D_S]``, float64.
    """

    store: PairedUpdates
    source_scale: Tensor

    @classmethod
    def fit(cls, store: PairedUpdates) -> NearestShadow:
        """Measure the scales of the source tensors; memory is a few source updates.

        Args:
            store: Where the shadow updates lie.

        Raises:
            StoreError: If the store holds no pair.
        """
        _, scale = shadow_statistics(store, "source")
        return cls(store, scale)

    def nearest(self, source_tokens: Tensor) -> int:
        """Return the shadow set whose source update is nearest; the first of several.

        Args:
            source_tokens: The client's update ``[N_S, D_S]``.

        Raises:
            LayoutError: If the client's tokens are of another shape or not finite.
        """
        return self._nearest_pair(source_tokens)[0]

    def predict(self, source_tokens: Tensor) -> Tensor:
        """Return the target update of the nearest shadow set.

        Args:
            source_tokens: The client's update ``[N_S, D_S]``.

        Returns:
            Target tokens ``[N_T, D_T]``, float32.

        Raises:
            LayoutError: If the client's tokens are of another shape or not finite.
        """
        return self.store.snapshot("target", *self._nearest_pair(source_tokens)).float().clone()

    def _nearest_pair(self, source_tokens: Tensor) -> tuple[int, int]:
        require_source_tokens(source_tokens, self.store.source_layout)
        client = source_tokens.double().cpu()
        return min(last_pairs(self.store), key=lambda pair: self._distance(client, pair))

    def _distance(self, client: Tensor, pair: tuple[int, int]) -> float:
        shadow = self.store.snapshot("source", *pair).double()
        return float(((client - shadow) / self.source_scale).norm())
