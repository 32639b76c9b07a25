"""StandardisingModel: a model that keeps the statistics of its tokens, and goes between own and standardised units.

Axes: B batch, N_S / N_T blocks, D_S / D_T size of the largest block. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers import initialization as init

from gradtx_hf.errors import LayoutError
from gradtx_hf.model.configuration import GradTransformerConfig
from gradtx_hf.model.tensor_scale import TensorScale
from gradtx_hf.updates import BlockLayout


STATISTICS = ("source_mean", "source_std", "target_mean", "target_std")


class StandardisingModel(PreTrainedModel):
    """Model with the statistics of source and target tokens.

    Buffers ``source_mean``, ``source_std`` ``[N_S, D_S]`` and ``target_mean``, ``target_std`` ``[N_T, D_T]`` hold
    the standardisation, in float32 whatever the dtype of the weights; the identity until ``set_statistics``. With a
    learned scale, ``target_scale`` multiplies ``target_std``.
    """

    config: GradTransformerConfig
    source_layout: BlockLayout
    source_mean: Tensor
    source_std: Tensor
    source_mask: Tensor
    target_layout: BlockLayout
    target_mean: Tensor
    target_std: Tensor
    target_mask: Tensor
    target_scale: TensorScale | None

    def squared_errors(self, predicted_blocks: Tensor, target_blocks: Tensor) -> Tensor:
        """Return the squared norm of each block's error in standardised units.

        Args:
            predicted_blocks: ``[B, N_T, D_T]`` or ``[N_T, D_T]``, in the tokens' own units.
            target_blocks: ``[B, N_T, D_T]``, in the tokens' own units.

        Returns:
            ``[B, N_T]`` float32; the mean over all entries is the loss of paper Eq. 10.
        """
        error = (predicted_blocks - target_blocks) / self._target_spread().detach()
        return (error * self.target_mask).square().sum(dim=2)

    @torch.no_grad()
    def set_statistics(
        self,
        *,
        source_mean: Tensor | None = None,
        source_std: Tensor | None = None,
        target_mean: Tensor | None = None,
        target_std: Tensor | None = None,
    ) -> None:
        """Set the standardisation; what is None stays as it is, and the padding stays the identity.

        Args:
            source_mean: ``[N_S, D_S]``.
            source_std: ``[N_S, D_S]``, > 0.
            target_mean: ``[N_T, D_T]``.
            target_std: ``[N_T, D_T]``, > 0.

        Raises:
            LayoutError: If a shape is wrong, or a value is not finite or not positive.
        """
        given = dict(zip(STATISTICS, (source_mean, source_std, target_mean, target_std), strict=True))
        for name, values in given.items():
            if values is not None:
                side, kind = name.split("_")
                buffer, mask = getattr(self, name), getattr(self, f"{side}_mask")
                if values.shape != buffer.shape:
                    raise LayoutError(f"got {name} of shape {list(values.shape)}, expected {list(buffer.shape)}.")
                identity = 0.0 if kind == "mean" else 1.0
                buffer.copy_(torch.where(mask, values.to(buffer), identity))
        self._check_statistics()

    def _add_standardisation(self, config: GradTransformerConfig) -> None:
        """Add the buffers and the learned scale; after all other weights, since the first gives the model's dtype."""
        self.source_layout, self.target_layout = config.source_layout, config.target_layout
        for side, layout in (("source", self.source_layout), ("target", self.target_layout)):
            shape = (layout.num_blocks, layout.block_dim)
            self.register_buffer(f"{side}_mean", torch.zeros(shape, dtype=torch.float32))
            self.register_buffer(f"{side}_std", torch.ones(shape, dtype=torch.float32))
            self.register_buffer(f"{side}_mask", torch.ones(shape, dtype=torch.bool), persistent=False)
        self.target_scale = TensorScale(self.target_layout) if config.learned_scale else None

    @torch.no_grad()
    def _init_standardisation(self) -> None:
        """Fill what a checkpoint lacks of the buffers; the masks are never in one."""
        for side, layout in (("source", self.source_layout), ("target", self.target_layout)):
            init.zeros_(getattr(self, f"{side}_mean"))
            init.ones_(getattr(self, f"{side}_std"))
            init.copy_(getattr(self, f"{side}_mask"), layout.mask())

    def _standardise_source(self, blocks: Tensor) -> Tensor:
        """Return source blocks ``[B, N_S, D_S]`` in standardised units, float32, zero in the padding."""
        _check_shape("source", blocks, self.source_layout)
        return (blocks.float() - self.source_mean) / self.source_std * self.source_mask

    def _standardise_target(self, blocks: Tensor) -> Tensor:
        """Return target blocks ``[B, N_T, D_T]`` in standardised units, float32, zero in the padding.

        The learned scale is taken as it is: a gradient through it would shrink the loss by a larger scale alone.
        """
        _check_shape("target", blocks, self.target_layout)
        return (blocks.float() - self.target_mean) / self._target_spread().detach() * self.target_mask

    def _to_own_units(self, standardised: Tensor) -> Tensor:
        """Return predicted blocks ``[B, N_T, D_T]`` in the tokens' own units, float32, zero in the padding."""
        return (standardised.float() * self._target_spread() + self.target_mean) * self.target_mask

    def _target_spread(self) -> Tensor:
        """Return the standard deviation of target elements, ``[N_T, D_T]``, with the learned scale if there is one."""
        return self.target_std if self.target_scale is None else self.target_std * self.target_scale()

    def _check_statistics(self) -> None:
        for name in STATISTICS:
            values = getattr(self, name)
            if not bool(values.isfinite().all()) or (name.endswith("std") and not bool((values > 0).all())):
                raise LayoutError(f"got {name} with values that are not finite or not positive: nothing can be scaled.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StandardisingModel:  # noqa: FBT001, FBT002
        """Move or cast the model, as torch does for ``to``, ``half`` and the like; the statistics stay float32."""
        kept = {name: getattr(self, name) for name in STATISTICS}
        super()._apply(fn, recurse)
        for name, values in kept.items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, values.to(getattr(self, name).device))
        return self


def _check_shape(side: str, blocks: Tensor, layout: BlockLayout) -> None:
    expected = (layout.num_blocks, layout.block_dim)
    if blocks.dim() != 3 or tuple(blocks.shape[1:]) != expected:
        raise LayoutError(
            f"got {side} blocks of shape {list(blocks.shape)}, expected [batch, {expected[0]}, {expected[1]}]."
        )
