"""UpdateVector: the difference that fine-tuning made, as block tokens with their layout.

Axes: N blocks, D the size of the largest block. Source: paper Sec. 3 (update vector).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates.codec import decode_update, encode_update
from gradtx_hf.updates.layout import BlockLayout


@dataclass(frozen=True, eq=False)
class UpdateVector:
    """Parameters after fine-tuning minus parameters before, as block tokens.

    Attributes:
        tokens: ``[N, D]`` float32, zero in the padding.
        layout: What stands where.
    """

    tokens: Tensor
    layout: BlockLayout

    def __post_init__(self) -> None:
        expected = (self.layout.num_blocks, self.layout.block_dim)
        if tuple(self.tokens.shape) != expected:
            raise LayoutError(f"got tokens of shape {list(self.tokens.shape)}, expected {list(expected)}.")

    @classmethod
    def between(cls, after: Mapping[str, Tensor], before: Mapping[str, Tensor], layout: BlockLayout) -> UpdateVector:
        """Return ``after - before``; both name the layout's tensors.

        Raises:
            LayoutError: If a tensor is missing, unexpected, or of another shape.
        """
        return cls(encode_update(after, layout) - encode_update(before, layout), layout)

    def added_to(self, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters after the update, in float32; the inverse of ``between``."""
        return decode_update(encode_update(before, self.layout) + self.tokens, self.layout)

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole update."""
        return float(self.tokens.double().norm())

    def cosine(self, other: UpdateVector) -> float:
        """Return the cosine of the angle to another update of the same layout, in [-1, 1].

        Raises:
            LayoutError: If the layouts differ.
        """
        self.layout.require(other.layout, got="one update", expected="the other")
        a, b = self.tokens.double().flatten(), other.tokens.double().flatten()
        return float(torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-300))


def mean_update(updates: Sequence[UpdateVector]) -> UpdateVector:
    """Return the mean of updates of one layout.

    Raises:
        LayoutError: If there are none, or their layouts differ.
    """
    if not updates:
        raise LayoutError("got no update to average, expected at least one.")
    for update in updates[1:]:
        updates[0].layout.require(update.layout, got="one update", expected="another")
    return UpdateVector(torch.stack([u.tokens for u in updates]).mean(0), updates[0].layout)
