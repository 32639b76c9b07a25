"""One canonical alignment of a LoRA adapter to a translator's rank, scale and start.

A LoRA update is the product s·B·A, and (B G)(G⁻¹ A) is the same product for every invertible G. Two runs from
one start share their G; an adapter that was re-factorised, scaled or padded by a tool does not. Alignment

1. folds the adapter's scale into B, relative to the start's scale;
2. brings the rank to the start's: the best approximation (QR of the factors, then the SVD of an R x R matrix,
   never the full product), or the start's own rows with zero columns of B;
3. picks G. With M = A A0⁺, an adapter that drifted from the start has M ≈ I, because drift is nearly orthogonal
   to A0: there G = I and the update stays as it was trained. Otherwise G = M estimates how the rows were mixed.
   Where M is too ill-conditioned to be inverted in float32, as only foreign starts have it, G is orthogonal.

G mixes R rows only, so an adapter that began elsewhere keeps its product and is still not near the start: that is
what ``start_distance`` tells.

Axes: R rank of the start, R' rank of the adapter. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import LayoutError


FACTOR_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
OWN_GAUGE_TOLERANCE = 0.5
"""Largest ‖M − I‖/√R, as a mean over modules, of an adapter that is left in its own gauge."""
MAX_CONDITION = 100.0
"""Largest condition number of M that is inverted: rounding of B·A stays near 1e-6 relative in float32."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """An adapter in the gauge of a start.

    Attributes:
        state: The aligned factors by name, float32, at the start's rank and scale.
        product_error: ‖s·B′A′ − s′·BA‖ / ‖s′·BA‖ over all modules; 0 unless the rank was cut.
        start_distance: Least ‖G⁻¹A − A0‖ / ‖A0‖ over all G and all modules, in [0, 1]: 0 for the start itself, near
            1 for an adapter that began elsewhere. The same for every factorisation of one product.
        is_identity: Whether the factors are the adapter's own, untouched but for scale and padding.
    """

    state: dict[str, Tensor]
    product_error: float
    start_distance: float
    is_identity: bool


@dataclass(frozen=True, eq=False)
class _Module:
    """One module's factors in float64: A ``[R, in]`` and B ``[out, R]`` at the start's rank, A0 the start's."""

    names: tuple[str, str]
    a: Tensor
    b: Tensor
    a0: Tensor
    product_error: float
    product_norm: float


def align_adapter(
    state: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    *,
    scales: Mapping[str, float],
    start_scales: Mapping[str, float],
) -> Alignment:
    """Align an adapter's factors to a start.

    Args:
        state: Factors by name ``<module>.<factor>``: ``lora_A`` ``[R', in]``, ``lora_B`` ``[out, R']``.
        start: The start's factors, at rank R; the same modules.
        scales: The adapter's scale per module (alpha / R', or alpha / √R' with rsLoRA).
        start_scales: The start's scale per module.

    Returns:
        The aligned factors and how far they are from the adapter's product and from the start.

    Raises:
        LayoutError: If the modules differ, or a module's input or output width does.
    """
    modules = [
        _prepare(module, a_factor, b_factor, state, start, scales[module] / start_scales[module])
        for module, a_factor, b_factor in _factored_modules(start)
    ]
    unexpected = set(state) - {name for module in modules for name in module.names}
    if unexpected:
        raise LayoutError(f"unexpected tensor '{min(unexpected)}' ({len(unexpected)} unexpected in all).")
    mixings = [module.a @ torch.linalg.pinv(module.a0) for module in modules]
    deviation = sum(_deviation_from_identity(m) for m in mixings) / len(mixings)
    is_identity = deviation <= OWN_GAUGE_TOLERANCE
    aligned: dict[str, Tensor] = {}
    for module, mixing in zip(modules, mixings, strict=True):
        a, b = (module.a, module.b) if is_identity else _change_gauge(module, mixing)
        aligned[module.names[0]] = a.float()
        aligned[module.names[1]] = b.float()
    return Alignment(
        state=aligned,
        product_error=_relative(
            [m.product_error for m in modules], [m.product_norm for m in modules]
        ),
        start_distance=_relative(
            [_distance_of_rows(m.a, m.a0) for m in modules], [float(m.a0.norm()) for m in modules]
        ),
        is_identity=is_identity,
    )


def _factored_modules(state: Mapping[str, Tensor]) -> list[tuple[str, str, str]]:
    """Return (module, name of A's factor, name of B's factor) for every module, in the state's order."""
    found = []
    for name in state:
        module, _, factor = name.rpartition(".")
        found += [(module, a, b) for a, b in FACTOR_PAIRS if factor == a]
    return found


def _prepare(
    module: str,
    a_factor: str,
    b_factor: str,
    state: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    scale_ratio: float,
) -> _Module:
    names = (f"{module}.{a_factor}", f"{module}.{b_factor}")
    for name in names:
        if name not in state:
            raise LayoutError(f"missing tensor '{name}'.")
    a, b = state[names[0]].double(), state[names[1]].double() * scale_ratio
    a0, b0 = start[names[0]].double(), start[names[1]].double()
    widths, expected = (a.shape[1], b.shape[0]), (a0.shape[1], b0.shape[0])
    if widths != expected:
        raise LayoutError(
            f"module '{module}' maps {widths[0]} to {widths[1]} features, expected {expected[0]} to {expected[1]}."
        )
    new_a, new_b = _match_rank(a, b, a0)
    return _Module(
        names, new_a, new_b, a0, _product_norm(torch.cat([new_a, a]), torch.cat([new_b, -b], 1)), _product_norm(a, b)
    )


def _match_rank(a: Tensor, b: Tensor, a0: Tensor) -> tuple[Tensor, Tensor]:
    rank, own_rank = a0.shape[0], a.shape[0]
    if own_rank < rank:
        padding = b.new_zeros(b.shape[0], rank - own_rank)
        return torch.cat([a, a0[own_rank:]]), torch.cat([b, padding], dim=1)
    if own_rank > rank:
        q_b, r_b = torch.linalg.qr(b)
        q_a, r_a = torch.linalg.qr(a.T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T)
        root = s[:rank].sqrt()
        return root[:, None] * (vh[:rank] @ q_a.T), (q_b @ u[:, :rank]) * root
    return a, b


def _change_gauge(module: _Module, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Return (G⁻¹A, BG) with G = M, or the orthogonal G that brings A nearest to A0."""
    if float(torch.linalg.cond(mixing)) <= MAX_CONDITION:
        return torch.linalg.solve(mixing, module.a), module.b @ mixing
    u, _, vh = torch.linalg.svd(module.a @ module.a0.T)
    rotation = u @ vh
    return rotation.T @ module.a, module.b @ rotation


def _deviation_from_identity(mixing: Tensor) -> float:
    rank = mixing.shape[0]
    return float((mixing - torch.eye(rank, dtype=mixing.dtype)).norm()) / math.sqrt(rank)


def _distance_of_rows(a: Tensor, a0: Tensor) -> float:
    """Return the norm of what A0 has outside the span of A's rows."""
    return float((a0 - a0 @ torch.linalg.pinv(a) @ a).norm())


def _product_norm(a: Tensor, b: Tensor) -> float:
    """Return ‖B A‖ without forming the product."""
    return float((torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T).norm())


def _relative(parts: list[float], wholes: list[float]) -> float:
    whole = math.sqrt(sum(x * x for x in wholes))
    return math.sqrt(sum(x * x for x in parts)) / whole if whole > 0 else 0.0
