"""FusedLinear: linear maps of one input as one product, to translate with and not to train.

On a CPU the weights stand in the order in which a library multiplies them, oneDNN or, in float16, FBGEMM; in their own
order oneDNN would reorder them in every call, which takes as long as the product where few rows are multiplied. FBGEMM
reads float16 weights and multiplies in float32, so that of the inputs nothing is rounded or too large.

Axes: M rows, I inputs, O outputs of all maps together. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtx_hf.errors import ConfigurationError, LayoutError


class FusedLinear(nn.Module):
    """Linear maps of one input; their weights are no parameters, and keep their device and number format.

    Args:
        weights: Name in the state dict to weights ``[O_n, I]``, in the order of the outputs; copied.
        bias: ``[O]`` or None; stays float32.
        dtype: The number format of the weights; float16 where ``has_float16_products`` of the device.
        device: Where the weights go.

    Raises:
        LayoutError: If a weight is beyond the largest float16.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], *, bias: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        joined = torch.cat([weight.to(device, dtype) for weight in weights.values()])
        self.in_features = joined.shape[1]
        self._dtype = dtype
        self._sizes = {name: len(weight) for name, weight in weights.items()}
        self._bias = None if bias is None else bias.to(device, torch.float32, copy=True)
        self._is_blocked = device.type == "cpu" and dtype != torch.float16 and _can_block(dtype)
        if dtype == torch.float16:
            if not bool(joined.isfinite().all()):
                raise LayoutError(f"weights '{next(iter(weights))}' are beyond the largest float16. Use dtype float32.")
            self._weight = torch.ops.quantized.linear_prepack_fp16(joined.float(), None)
        else:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(joined, None) if self._is_blocked else joined

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[..., I]`` to ``[..., O]`` float32."""
        mapped: Tensor
        if self._dtype == torch.float16:
            mapped = torch.ops.quantized.linear_dynamic_fp16(inputs.float(), self._weight)
        elif self._is_blocked:
            inputs = inputs.to(self._dtype)
            mapped = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, None, "none", [], "")
        else:
            mapped = F.linear(inputs.to(self._dtype), self._weight)
        return mapped.float() if self._bias is None else mapped.float() + self._bias

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by name in their own order, and the bias as ``bias``; copies."""
        joined: Tensor
        if self._dtype == torch.float16:
            joined = torch.ops.quantized.linear_unpack_fp16(self._weight)[0].half()
        else:
            joined = self._weight.to_dense() if self._is_blocked else self._weight
        parts = dict(zip(self._sizes, joined.split(list(self._sizes.values())), strict=True))
        bias = {} if self._bias is None else {"bias": self._bias}
        return {name: tensor.clone() for name, tensor in (parts | bias).items()}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001
        destination.update({f"{prefix}{name}": tensor for name, tensor in self.tensors().items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedLinear:  # noqa: FBT001, FBT002
        refuse_to_move()


def refuse_to_move() -> NoReturn:
    """Refuse to move, cast or share weights in an order of their own.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(
        "got a call to move or cast a translator that was loaded to translate: its weights stay as they are. Load it "
        "again with the device and dtype."
    )


def has_float16_products(device: torch.device) -> bool:
    """Return whether float16 weights can be multiplied with float32 inputs there: on a CPU, by FBGEMM."""
    return device.type == "cpu" and torch.backends.quantized.engine in ("x86", "fbgemm")


def _can_block(dtype: torch.dtype) -> bool:
    """Return whether this machine's oneDNN has weights of its own order; torch offers them in no public call."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
