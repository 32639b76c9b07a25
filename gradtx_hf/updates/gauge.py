"""One canonical alignment of a LoRA adapter to a translator's rank, scale and start.

A LoRA update is the product s·B·A, and (B G)(G⁻¹ A) is the same product for every invertible G. Two runs from
one start share their G; an adapter that was re-factorised, scaled or padded by a tool does not. Alignment

1. folds the adapter's scale into B, relative to the start's scale;
2. brings the rank to the start's: a lower one with the start's own rows and zero columns of B; of a higher one, the
   first R rows where they drifted from the start's, as a client's do who added rows to it: what the others learned is
   lost, what these learned stays in its place. Else the best approximation (QR of the factors, then the SVD of an
   R' x R' matrix, never the full product);
3. picks G. With M = A A0⁺, an adapter that drifted from the start has M ≈ I, because drift is nearly orthogonal
   to A0: there G = I and the update stays as it was trained. Otherwise A and B are first made from the product
   alone (orthonormal rows, completed by the part of A0 that the product does not use), so that every
   factorisation of one product ends as the same tensors, and G = M undoes how the rows were mixed. Where M is too
   ill-conditioned to be inverted in float32, as only foreign starts have it, G is orthogonal.

Where the start's A0 is zero and its B0 is not (PEFT starts embeddings so), the two change roles: the product is
transposed, B is brought to B0, and A carries the scale's zero columns.

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
"""Largest ‖M - I‖/√R, as a mean over modules, of an adapter that is left in its own gauge."""
MAX_ROW_DRIFT = 0.75
"""Largest ‖A - A0‖/‖A0‖ of a higher rank's first rows that are taken to be the start's; foreign rows lie near √2."""
MAX_CONDITION = 100.0
"""Largest condition number of M that is inverted: rounding of B·A stays near 1e-6 relative in float32."""
RANK_TOLERANCE = 1e-6
"""Singular values of B·A below this part of the largest are float32 rounding, not directions of the update."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """An adapter in the gauge of a start.

    Attributes:
        state: The aligned factors by name, float32, at the start's rank and scale.
        product_error: ‖aligned s·B·A - own s·B·A‖ / ‖own s·B·A‖ over all modules; 0 unless the rank was cut.
        start_distance: Least ‖G⁻¹A - A0‖ / ‖A0‖ over all G and all modules, in [0, 1]: 0 for the start itself, near
            1 for an adapter that began elsewhere. The same for every factorisation of one product, but for one that was
            cut to its first rows. An adapter of lower rank is measured on as many directions as it has.
        is_identity: Whether the factors are the adapter's own, untouched but for scale, padding and cutting.
    """

    state: dict[str, Tensor]
    product_error: float
    start_distance: float
    is_identity: bool


@dataclass(frozen=True, eq=False)
class _Module:
    """One module in float64: A ``[R, in]`` and B ``[out, R]`` at the start's rank, A0 ``[R, in]`` the start's.

    ``own_rank`` is min(R', R); ``lost`` the norm of the part of A0 that no gauge reaches.

    Where the factors have changed roles, A is the transposed B factor and B the transposed A factor; ``names`` are
    the state's names of A and B in this order.
    """

    names: tuple[str, str]
    is_transposed: bool
    a: Tensor
    b: Tensor
    a0: Tensor
    own_rank: int
    lost: float
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
    _require_same_modules(state, start)
    modules = [
        _prepare(module, a_factor, b_factor, state, start, scales[module] / start_scales[module])
        for module, a_factor, b_factor in _factored_modules(start)
    ]
    is_identity = _mean_deviation(modules) <= OWN_GAUGE_TOLERANCE
    aligned: dict[str, Tensor] = {}
    for module in modules:
        a, b = (module.a, module.b) if is_identity else _change_gauge(module)
        if module.is_transposed:
            a, b = a.T, b.T
        aligned[module.names[0]] = a.float().contiguous()
        aligned[module.names[1]] = b.float().contiguous()
    return Alignment(
        state=aligned,
        product_error=_relative([m.product_error for m in modules], [m.product_norm for m in modules]),
        start_distance=_relative([m.lost for m in modules], [float(m.a0.norm()) for m in modules]),
        is_identity=is_identity,
    )


def _require_same_modules(state: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
    if not start:
        raise LayoutError("got a start without tensors, expected at least one adapted module.")
    for word, many, few in (("missing", start, state), ("unexpected", state, start)):
        names = sorted(set(many) - set(few))
        if names:
            raise LayoutError(f"{word} tensor '{names[0]}' ({len(names)} {word} in all).")


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
    """Fold the scale, check the widths, match the rank, and say how much of the product that costs."""
    names = (f"{module}.{a_factor}", f"{module}.{b_factor}")
    a, b = state[names[0]].double(), state[names[1]].double() * scale_ratio
    a0, b0 = start[names[0]].double(), start[names[1]].double()
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise LayoutError(f"module '{module}' has factors {list(a.shape)} and {list(b.shape)}, which do not multiply.")
    widths, expected = (a.shape[1], b.shape[0]), (a0.shape[1], b0.shape[0])
    if widths != expected:
        raise LayoutError(
            f"module '{module}' maps {widths[0]} to {widths[1]} features, expected {expected[0]} to {expected[1]}."
        )
    is_transposed = not bool(a0.any()) and bool(b0.any())
    if is_transposed:
        names, a, b, a0 = (names[1], names[0]), b.T, a.T, b0.T
    new_a, new_b = _match_rank(a, b, a0)
    error = _product_norm(torch.cat([new_a, a]), torch.cat([new_b, -b], dim=1)) if a.shape[0] > a0.shape[0] else 0.0
    own_rank = min(a.shape[0], a0.shape[0])
    lost = _unreached(new_a[:own_rank], a0)
    return _Module(names, is_transposed, new_a, new_b, a0, own_rank, lost, error, _product_norm(a, b))


def _match_rank(a: Tensor, b: Tensor, a0: Tensor) -> tuple[Tensor, Tensor]:
    """Bring A ``[R', in]`` and B ``[out, R']`` to rank R: padded, cut, or as they are."""
    rank, own_rank = a0.shape[0], a.shape[0]
    if own_rank < rank:
        padding = b.new_zeros(b.shape[0], rank - own_rank)
        return torch.cat([a, a0[own_rank:]]), torch.cat([b, padding], dim=1)
    if own_rank > rank:
        if float((a[:rank] - a0).norm()) <= MAX_ROW_DRIFT * float(a0.norm()):
            return a[:rank], b[:, :rank]
        u, s, vh = _product_svd(a, b)
        return _pad_rows(vh[:rank], rank), _pad_rows((u[:, :rank] * s[:rank]).T, rank).T
    return a, b


def _factor_again(a: Tensor, b: Tensor, a0: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors at rank R that depend on the product and the start only.

    The rows of A are the product's right singular vectors, as long as A0's rows; where the product has a smaller
    rank than A0, the rest is what these rows leave of A0, with zero columns of B.
    """
    rank = a0.shape[0]
    u, s, vh = _product_svd(a, b)
    num_directions = int((s[:rank] > RANK_TOLERANCE * s[0]).sum()) if bool(s[0] > 0) else 0
    length = float(a0.norm()) / math.sqrt(rank)
    length = length if length > 0 else 1.0
    rows = length * vh[:num_directions]
    _, _, mixing_vh = torch.linalg.svd(rows @ torch.linalg.pinv(a0), full_matrices=True)
    rest = mixing_vh[num_directions:] @ a0
    columns = u[:, :num_directions] * s[:num_directions] / length
    return torch.cat([rows, rest]), torch.cat([columns, b.new_zeros(b.shape[0], rank - num_directions)], dim=1)


def _change_gauge(module: _Module) -> tuple[Tensor, Tensor]:
    """Return (G⁻¹A, BG) with G = M, or the orthogonal G that brings A nearest to A0."""
    a, b = _factor_again(module.a, module.b, module.a0)
    mixing = a @ torch.linalg.pinv(module.a0)
    if float(torch.linalg.cond(mixing)) <= MAX_CONDITION:
        return torch.linalg.solve(mixing, a), b @ mixing
    u, _, vh = torch.linalg.svd(a @ module.a0.T)
    rotation = u @ vh
    return rotation.T @ a, b @ rotation


def _mean_deviation(modules: list[_Module]) -> float:
    """Return the mean over modules of ‖M - I‖/√R, R without padding."""
    deviations = []
    for module in modules:
        mixing = module.a @ torch.linalg.pinv(module.a0)
        identity = torch.eye(mixing.shape[0], dtype=mixing.dtype)
        deviations.append(float((mixing - identity).norm()) / math.sqrt(module.own_rank))
    return sum(deviations) / len(deviations)


def _unreached(a: Tensor, a0: Tensor) -> float:
    """Return the norm of what A0 has outside the span of A's rows.

    With fewer rows than A0, A is measured against the directions of A0 that it comes nearest to.
    """
    if a.shape[0] == a0.shape[0]:
        return float((a0 - a0 @ torch.linalg.pinv(a) @ a).norm())
    cosines = torch.linalg.svdvals(_orthonormal_rows(a) @ _orthonormal_rows(a0).T)
    return float((1 - cosines.square()).clamp_min(0).mean().sqrt() * a0.norm())


def _orthonormal_rows(rows: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(rows.T).Q.T
    return q


def _product_svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular value decomposition of B A, without forming the product.

    Returns:
        U ``[out, K]``, S ``[K]`` descending and Vᵀ ``[K, in]``, with K = min(R', in, out).
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, vh @ q_a.T


def _product_norm(a: Tensor, b: Tensor) -> float:
    """Return ‖B A‖ without forming the product."""
    return float((torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T).norm())


def _pad_rows(rows: Tensor, num_rows: int) -> Tensor:
    """Add zero rows until there are ``num_rows``."""
    return torch.cat([rows, rows.new_zeros(num_rows - rows.shape[0], rows.shape[1])])


def _relative(parts: list[float], wholes: list[float]) -> float:
    whole = math.sqrt(sum(x * x for x in wholes))
    return math.sqrt(sum(x * x for x in parts)) / whole if whole > 0 else 0.0
