"""What a GradTransformerModel returns.

Axes: B batch, N_T blocks, D_T size of the largest block. Source: paper Eq. 10.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class GradTransformerOutput(ModelOutput):
    """What forward returns.

    Attributes:
        loss: Scalar: squared norm of a block's error in standardised units, mean over batch and blocks (paper
            Eq. 10); None without target blocks.
        predicted_blocks: ``[B, N_T, D_T]`` float32, in the tokens' own units, zero in the padding.
        block_errors: ``[N_T]``: mean squared standardised error of an element, by block; None without target
            blocks. 1.0 is what a constant prediction of the mean scores.
    """

    loss: Tensor | None = None
    predicted_blocks: Tensor | None = None
    block_errors: Tensor | None = None
