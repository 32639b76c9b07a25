"""Blocks: what one token of an update holds, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradtx_hf.errors import LayoutError


@dataclass(frozen=True)
class TensorSlot:
    """One tensor's place in its block.

    Attributes:
        module: Module path in the base model, such as ``model.layers.0.self_attn.q_proj``.
        factor: What of the module it is: ``lora_A``, ``lora_B``, ``weight``, …
        shape: The tensor's shape.
        offset: First element in the block's token; the tensor is stored row-major.
    """

    module: str
    factor: str
    shape: tuple[int, ...]
    offset: int

    @property
    def name(self) -> str:
        """The tensor's name in an update."""
        return f"{self.module}.{self.factor}"

    @property
    def num_elements(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Block:
    """One token: the tensors of one layer (and one token kind).

    Attributes:
        name: Path prefix up to the layer's number, such as ``model.layers.0``.
        kind: Token kind; each kind has its own input and output maps in the model.
        slots: The tensors in token order.
    """

    name: str
    kind: str
    slots: tuple[TensorSlot, ...]

    @property
    def size(self) -> int:
        """Number of elements of the block's token that are not padding."""
        return sum(slot.num_elements for slot in self.slots)


def build_block(
    name: str, kind: str, *, tensors: Iterable[tuple[str, str, tuple[int, ...]]], is_sorted: bool = False
) -> Block:
    """Lay tensors one behind the other.

    Args:
        name: Path prefix up to the layer's number.
        kind: Token kind.
        tensors: Module path, factor and shape of each tensor.
        is_sorted: Whether the order given is the token order; if not, modules are sorted by path and number, then
            by factor.

    Raises:
        LayoutError: If a tensor has no element.
    """
    ordered = list(tensors) if is_sorted else sorted(tensors, key=lambda t: (natural_key(t[0]), t[1]))
    slots, offset = [], 0
    for module, factor, shape in ordered:
        slot = TensorSlot(module, factor, shape, offset)
        if any(size <= 0 for size in shape):
            raise LayoutError(f"tensor '{slot.name}' is {list(shape)}, expected at least one element.")
        slots.append(slot)
        offset += slot.num_elements
    return Block(name, kind, tuple(slots))


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that orders ``layers.2`` before ``layers.10``."""
    return tuple((0, len(part.lstrip("0")), part) if part.isdecimal() else (1, 0, part) for part in text.split("."))
