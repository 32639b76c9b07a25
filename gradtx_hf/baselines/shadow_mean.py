"""Mean shadow update: the same target update for every client.

A translator that is no better than this has not read its input. Axes: N blocks, D the size of the largest block.
Source: ours (control).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.baselines.shadows import PairedUpdates, last_pairs, require_source_tokens
from gradtx_hf.updates import BlockLayout


@dataclass(frozen=True, eq=False)
class ShadowMean:
    """The mean of the shadow sets' last target updates.

    Attributes:
        source_layout: Layout of the updates that it accepts.
        target_tokens: The mean ``[N_T, D_T]``, float32.
    """

    source_layout: BlockLayout
    target_tokens: Tensor

    @classmethod
    def fit(cls, store: PairedUpdates) -> ShadowMean:
        """Average the target updates, one at a time; memory is two target updates.

        Args:
            store: Where the shadow updates lie.

        Raises:
            StoreError: If the store holds no pair.
        """
        pairs = last_pairs(store)
        layout = store.target_layout
        total = torch.zeros(layout.num_blocks, layout.block_dim, dtype=torch.float64)
        for shadow_set, snapshot in pairs:
            total += store.snapshot("target", shadow_set, snapshot).double()
        return cls(store.source_layout, (total / len(pairs)).float())

    def predict(self, source_tokens: Tensor) -> Tensor:
        """Return the mean, whatever the client's update is.

        Args:
            source_tokens: The client's update ``[N_S, D_S]``.

        Returns:
            Target tokens ``[N_T, D_T]``, float32.

        Raises:
            LayoutError: If the client's tokens are of another shape or not finite.
        """
        require_source_tokens(source_tokens, self.source_layout)
        return self.target_tokens.clone()
