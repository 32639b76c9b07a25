"""BlockLayout: which tensor of an update stands where in which block token.

A layout is made from tensor shapes alone, so that nothing depends on a model's name. A tensor is named
``<module path>.<factor>``, for instance ``model.layers.0.self_attn.q_proj.lora_A``; the factor is ``lora_A``,
``lora_B``, ``lora_embedding_A``, ``lora_embedding_B``, or, in full-weight updates, a parameter name such as
``weight``. The first number in the module path is the block's place in the model.

Axes: N blocks, D the size of the largest block. Source: paper Sec. 3 and Eqs. 4-5; token kinds and ragged
blocks are ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates.block import Block, TensorSlot, build_block, natural_key


SINGLE_KIND = "block"
TOKEN_KINDS: dict[str, str] = {
    "attention": r"attn|attention",
    "mlp": r"mlp|feed_forward|ffn|\.fc\d|experts",
    "embedding": r"embed|wte|wpe|lm_head",
}
"""Names of token kinds and the pattern that a module path of that kind contains; the first that fits counts."""
MAX_AXES, MAX_SIZE = 8, 2**48
"""Of a tensor that a file names; without bounds, their product alone would take minutes."""


@dataclass(frozen=True)
class BlockLayout:
    """The order, names and shapes of all tensors of an update, as a sequence of block tokens.

    Attributes:
        blocks: Blocks in token order.
    """

    blocks: tuple[Block, ...]

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, Sequence[int]], *, token_kinds: Mapping[str, str] | None = None
    ) -> BlockLayout:
        """Build the layout of an update from its tensors' names and shapes, in any order.

        Args:
            shapes: Tensor name ``<module path>.<factor>`` to shape.
            token_kinds: Kind name to a pattern searched in the module path (see ``TOKEN_KINDS``), the first
                match counts; each layer then has one token per kind that occurs. None: one kind, one token
                per layer.

        Raises:
            LayoutError: If there is no tensor, a module lies outside the layers and no kind is given for it,
                or no kind's pattern fits a module.
        """
        if not shapes:
            raise LayoutError("got an update without tensors, expected at least one adapted module.")
        grouped: dict[tuple[Any, ...], list[tuple[str, str, tuple[int, ...]]]] = {}
        names: dict[tuple[Any, ...], tuple[str, str]] = {}
        kind_order = list(token_kinds or {SINGLE_KIND: ""})
        for tensor_name, shape in shapes.items():
            module, _, factor = tensor_name.rpartition(".")
            block_name = _block_name(module)
            kind = _kind_of(module, token_kinds) if token_kinds else SINGLE_KIND
            if not token_kinds and not lies_in_layers(module):
                raise LayoutError(
                    f"module '{module}' lies outside the layers, and this layout has no token kind for it. "
                    "Leave it out of target_modules, or train a translator with token kinds that include it."
                )
            key = (natural_key(block_name), kind_order.index(kind))
            names[key] = (block_name, kind)
            grouped.setdefault(key, []).append((module, factor, tuple(int(n) for n in shape)))
        blocks = tuple(build_block(*names[key], tensors=grouped[key]) for key in sorted(grouped))
        return cls(blocks)

    @cached_property
    def num_blocks(self) -> int:
        """Number of block tokens N."""
        return len(self.blocks)

    @cached_property
    def block_dim(self) -> int:
        """Size D of the largest block; smaller blocks are padded with zeros at the end."""
        return max(block.size for block in self.blocks)

    @cached_property
    def slots(self) -> dict[str, tuple[int, TensorSlot]]:
        """Tensor name to (block index, slot), in token order."""
        return {slot.name: (n, slot) for n, block in enumerate(self.blocks) for slot in block.slots}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name to shape, in token order."""
        return {name: slot.shape for name, (_, slot) in self.slots.items()}

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Adapted module paths, in token order."""
        return tuple(dict.fromkeys(slot.module for _, slot in self.slots.values()))

    @cached_property
    def projections(self) -> tuple[str, ...]:
        """Last parts of the adapted module paths, such as ``q_proj``, sorted."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.modules}))

    @cached_property
    def num_elements(self) -> int:
        """Number of elements of an update, padding not counted."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Token kinds that occur, in order of first occurrence, with the size of each kind's largest block."""
        sizes: dict[str, int] = {}
        for block in self.blocks:
            sizes[block.kind] = max(sizes.get(block.kind, 0), block.size)
        return sizes

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the layout's JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def mask(self) -> Tensor:
        """Return ``[N, D]`` booleans, true where a token holds a tensor's element."""
        sizes = torch.tensor([block.size for block in self.blocks])
        return torch.arange(self.block_dim) < sizes[:, None]

    def select(self, keep: Callable[[TensorSlot], bool]) -> BlockLayout:
        """Return the layout of the tensors that ``keep`` accepts, blocks in the same order.

        Raises:
            LayoutError: If nothing is kept.
        """
        blocks = []
        for block in self.blocks:
            kept = [(slot.module, slot.factor, slot.shape) for slot in block.slots if keep(slot)]
            if kept:
                blocks.append(build_block(block.name, block.kind, tensors=kept))
        if not blocks:
            raise LayoutError("the selection keeps no tensor of the layout.")
        return BlockLayout(tuple(blocks))

    def by_projection(self) -> dict[str, BlockLayout]:
        """Split into one layout per projection (paper: q and v separately), named by the projection."""
        return {
            projection: self.select(lambda slot, p=projection: slot.module.rpartition(".")[2] == p)  # type: ignore[misc]
            for projection in self.projections
        }

    def reversed(self) -> BlockLayout:
        """Return the layout with its blocks in the opposite order (paper: reversed order)."""
        return BlockLayout(self.blocks[::-1])

    def require(self, other: BlockLayout, *, got: str, expected: str) -> None:
        """Check that another layout is this one.

        Args:
            other: The layout that was met.
            got: What carries ``other``, in the user's words, such as ``adapter 'me/tiny'``.
            expected: What carries this layout, such as ``translator 'org/qwen'``.

        Raises:
            LayoutError: If they differ; the message shows the difference.
        """
        if self.fingerprint != other.fingerprint:
            raise LayoutError(f"{got} does not fit {expected}: {describe_difference(other, self)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON values; offsets follow from the order and are left out."""
        return {
            "blocks": [
                {
                    "name": block.name,
                    "kind": block.kind,
                    "tensors": [[slot.module, slot.factor, list(slot.shape)] for slot in block.slots],
                }
                for block in self.blocks
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BlockLayout:
        """Rebuild a layout from ``to_dict``'s values.

        Raises:
            LayoutError: If the values are not those of a layout.
        """
        try:
            blocks = []
            for block in values["blocks"]:
                tensors = [(str(m), str(f), _shape_of(shape)) for m, f, shape in block["tensors"]]
                blocks.append(build_block(str(block["name"]), str(block["kind"]), tensors=tensors, is_sorted=True))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LayoutError(f"got values that are no block layout ({error!r}).") from error
        layout = cls(tuple(blocks))
        if not blocks or len(layout.slots) != sum(len(block.slots) for block in blocks):
            raise LayoutError("got a block layout without tensors, or with one tensor in two places.")
        return layout


def is_kind_name(name: str) -> bool:
    """Return whether a token kind can have this name: a plain word, which names modules of the translator too."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None and not hasattr(nn.ModuleDict, name)


def lies_in_layers(module: str) -> bool:
    """Return whether a module path has a number, that is, belongs to one of the model's layers."""
    return any(part.isdecimal() for part in module.split("."))


def _shape_of(values: Sequence[Any]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in values)
    if len(shape) > MAX_AXES or any(n > MAX_SIZE for n in shape):
        raise ValueError(f"a tensor of {len(shape)} axes, the largest of size {max(shape)}")
    return shape


def describe_difference(got: BlockLayout, expected: BlockLayout, *, most: int = 3) -> str:
    """Say in one line how two layouts differ: projections, blocks, tensors or shapes, the first that does."""
    if got.projections != expected.projections:
        return (
            f"it adapts {', '.join(got.projections)}, expected {', '.join(expected.projections)}. "
            f"Train it with target_modules={list(expected.projections)}."
        )
    for many, few, word in ((got, expected, "unexpected"), (expected, got, "missing")):
        names = [name for name in many.shapes if name not in few.shapes]
        if names:
            return f"{word} {_shorten(names, most)} ({got.num_blocks} blocks, expected {expected.num_blocks} blocks)."
    shapes = [
        f"{name} is {list(shape)}, expected {list(expected.shapes[name])}"
        for name, shape in got.shapes.items()
        if shape != expected.shapes[name]
    ]
    if shapes:
        return f"{_shorten(shapes, most)}."
    return "the same tensors in another order or with other token kinds."


def _shorten(items: Iterable[str], most: int) -> str:
    listed = list(items)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(listed[:most]) + rest


def _block_name(module: str) -> str:
    """Return the path up to and with the first number; the whole path if there is none."""
    parts = module.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else module


def _kind_of(module: str, token_kinds: Mapping[str, str]) -> str:
    for kind, pattern in token_kinds.items():
        if re.search(pattern, module):
            return kind
    raise LayoutError(
        f"module '{module}' is of none of the token kinds {', '.join(token_kinds)}. Leave it out of target_modules."
    )
