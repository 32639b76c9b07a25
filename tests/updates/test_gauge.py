"""Alignment keeps B·A, is the identity for the own start, and tells a foreign start from a mixed copy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates import Alignment, align_adapter


State = dict[str, Tensor]
MODULES = {"model.layers.0.self_attn.q_proj": (48, 48), "model.layers.0.self_attn.v_proj": (48, 24)}
"""Module to (input width, output width)."""


def make_start(rank: int, widths: dict[str, tuple[int, int]] = MODULES) -> State:
    """Make an initial adapter as PEFT does: A as nn.Linear's weight, B zero."""
    state = {}
    for module, (in_width, out_width) in widths.items():
        state[f"{module}.lora_A"] = (2 * torch.rand(rank, in_width) - 1) / math.sqrt(in_width)
        state[f"{module}.lora_B"] = torch.zeros(out_width, rank)
    return state


def drift(start: State, *, size: float = 0.2) -> State:
    """Move a start as training does: every factor by ``size`` of A0's norm, in random directions."""
    moved = {}
    for name, tensor in start.items():
        noise = torch.randn(tensor.shape)
        length = float(start[f"{name.rpartition('.')[0]}.lora_A"].norm())
        moved[name] = tensor + noise * (size * length / float(noise.norm()))
    return moved


def mix(state: State, *, condition: float = 4.0) -> State:
    """Replace every (B, A) by (B G, G⁻¹ A), with a random G of this condition number."""
    mixed = {}
    for name in [name for name in state if name.endswith("lora_A")]:
        module = name.rpartition(".")[0]
        a, b = state[name].double(), state[f"{module}.lora_B"].double()
        rank = a.shape[0]
        left, right = (torch.linalg.qr(torch.randn(rank, rank, dtype=torch.float64)).Q for _ in range(2))
        g = left @ torch.diag(torch.logspace(0, math.log10(condition), rank, dtype=torch.float64)) @ right
        mixed[name] = torch.linalg.solve(g, a).float()
        mixed[f"{module}.lora_B"] = (b @ g).float()
    return mixed


def ones(state: State) -> dict[str, float]:
    return {name.rpartition(".")[0]: 1.0 for name in state}


def align(state: State, start: State) -> Alignment:
    return align_adapter(state, start, scales=ones(state), start_scales=ones(start))


def product(state: State, module: str, scale: float = 1.0) -> Tensor:
    return scale * state[f"{module}.lora_B"].double() @ state[f"{module}.lora_A"].double()


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(1, 8),
    in_width=st.integers(8, 80),
    out_width=st.integers(8, 80),
    condition=st.sampled_from([1.0, 10.0, 1e3, 1e5]),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["own", "mixed", "foreign"]),
)
def test_alignment_keeps_the_product(
    rank: int, in_width: int, out_width: int, condition: float, seed: int, kind: str
) -> None:
    torch.manual_seed(seed)
    widths = {"layers.0.q": (in_width, out_width), "layers.1.q": (in_width, out_width)}
    start = make_start(rank, widths)
    state = drift(make_start(rank, widths) if kind == "foreign" else start, size=0.5)
    state = state if kind == "own" else mix(state, condition=condition)

    aligned = align(state, start)

    for module in widths:
        assert relative_error(product(aligned.state, module), product(state, module)) <= 1e-5
    assert aligned.product_error == 0
    assert 0 <= aligned.start_distance <= 1 + 1e-6


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 8), seed=st.integers(0, 2**16), size=st.sampled_from([0.0, 0.05, 0.3]))
def test_an_adapter_of_the_own_start_is_left_bit_for_bit(rank: int, seed: int, size: float) -> None:
    torch.manual_seed(seed)
    start = make_start(rank)
    state = drift(start, size=size) if size else start

    aligned = align(state, start)

    assert aligned.is_identity
    assert list(aligned.state) == list(start)
    assert all(torch.equal(aligned.state[name], state[name]) for name in start)
    assert aligned.product_error == 0


@pytest.mark.parametrize("scale", [8 / 2, 16 / math.sqrt(4)], ids=["alpha/r", "rslora"])
def test_the_scale_is_folded_into_b(scale: float) -> None:
    start = make_start(4)
    state = drift(start)
    own_scales = dict.fromkeys(MODULES, scale)

    aligned = align_adapter(state, start, scales=own_scales, start_scales=dict.fromkeys(MODULES, 2.0))

    assert aligned.is_identity
    for module in MODULES:
        assert torch.equal(aligned.state[f"{module}.lora_A"], state[f"{module}.lora_A"])
        torch.testing.assert_close(product(aligned.state, module, 2.0), product(state, module, scale))


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 6), own_rank=st.integers(7, 12), seed=st.integers(0, 2**16))
def test_a_higher_rank_becomes_the_best_approximation(rank: int, own_rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    start, state = make_start(rank), drift(make_start(own_rank), size=1.0)

    aligned = align(state, start)

    lost, whole = 0.0, 0.0
    for module in MODULES:
        full = product(state, module)
        u, s, vh = torch.linalg.svd(full, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert relative_error(product(aligned.state, module), best) <= 1e-5
        lost, whole = lost + float(s[rank:].square().sum()), whole + float(s.square().sum())
    assert aligned.product_error == pytest.approx(math.sqrt(lost / whole), rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(rank=st.integers(1, 4), more=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_a_higher_rank_that_began_with_the_rows_of_the_start_is_cut_to_them(rank: int, more: int, seed: int) -> None:
    torch.manual_seed(seed)
    start, other = make_start(rank), make_start(more)
    began = {name: torch.cat([start[name], other[name]], dim=0 if name.endswith("A") else 1) for name in start}
    state = drift(began)

    aligned = align(state, start)

    for name, tensor in aligned.state.items():
        assert torch.equal(tensor, state[name][:rank] if name.endswith("A") else state[name][:, :rank])
    assert aligned.is_identity
    assert aligned.start_distance < 0.5
    assert 0 < aligned.product_error < 1


def test_a_higher_rank_than_the_output_is_wide_is_brought_down() -> None:
    widths = {"layers.0.k": (32, 3)}
    start, state = make_start(4, widths), drift(make_start(6, widths))

    aligned = align(state, start)

    assert {name: tensor.shape for name, tensor in aligned.state.items()} == {n: t.shape for n, t in start.items()}
    assert relative_error(product(aligned.state, "layers.0.k"), product(state, "layers.0.k")) <= 1e-5
    assert aligned.product_error <= 1e-6


def test_a_lower_rank_is_padded_with_the_rows_of_the_start() -> None:
    start = make_start(5)
    state = drift({n: t[:2] if n.endswith("lora_A") else t[:, :2] for n, t in start.items()})

    aligned = align(state, start)

    assert aligned.is_identity
    assert aligned.start_distance < 0.3
    for module in MODULES:
        a, b = aligned.state[f"{module}.lora_A"], aligned.state[f"{module}.lora_B"]
        assert torch.equal(a, torch.cat([state[f"{module}.lora_A"], start[f"{module}.lora_A"][2:]]))
        assert torch.equal(b[:, :2], state[f"{module}.lora_B"])
        assert not b[:, 2:].any()


def test_a_mixed_copy_of_a_lower_rank_comes_back_to_the_start() -> None:
    start = make_start(5)
    state = drift({n: t[:2] if n.endswith("lora_A") else t[:, :2] for n, t in start.items()}, size=0.1)

    aligned = align(mix(state), start)

    assert not aligned.is_identity
    for module in MODULES:
        assert relative_error(aligned.state[f"{module}.lora_A"], start[f"{module}.lora_A"]) < 0.2
        assert relative_error(product(aligned.state, module), product(state, module)) <= 1e-5


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 8), seed=st.integers(0, 2**16), condition=st.sampled_from([2.0, 20.0, 1e3]))
def test_a_mixed_copy_comes_back_near_the_factors_it_was_made_from(rank: int, seed: int, condition: float) -> None:
    torch.manual_seed(seed)
    start = make_start(rank)
    state = drift(start, size=0.1)

    aligned = align(mix(state, condition=condition), start)

    assume(not aligned.is_identity)  # a G near I is taken for drift, and left
    for name, tensor in state.items():
        assert relative_error(aligned.state[name], tensor) < 0.2


def test_every_factorisation_of_one_product_ends_as_the_same_tensors() -> None:
    start = make_start(4)
    state = drift(start)

    one, other = align(mix(state), start), align(mix(state, condition=50), start)

    for name in start:
        assert relative_error(one.state[name], other.state[name]) < 1e-4
    assert one.start_distance == pytest.approx(other.start_distance, abs=1e-5)


def test_a_product_of_lower_rank_is_completed_from_the_start() -> None:
    start = make_start(4)
    state = drift(start, size=0.1)
    for module in MODULES:
        state[f"{module}.lora_B"][:, 2:] = 0

    aligned = align(mix(state), start)

    for module in MODULES:
        assert relative_error(aligned.state[f"{module}.lora_A"], start[f"{module}.lora_A"]) < 0.2
        assert relative_error(product(aligned.state, module), product(state, module)) <= 1e-5


def test_a_foreign_adapter_that_does_nothing_becomes_the_start_and_stays_far() -> None:
    start = make_start(4)

    aligned = align(make_start(4), start)

    assert aligned.start_distance > 0.8
    for name, tensor in start.items():
        torch.testing.assert_close(aligned.state[name], tensor, atol=1e-6, rtol=0)


def test_distance_is_small_for_the_own_start_and_its_mixed_copy_and_near_one_for_a_foreign_start() -> None:
    widths = {"layers.0.q": (256, 256), "layers.0.v": (256, 64)}
    start = make_start(4, widths)
    own = drift(start, size=0.2)

    own_distance = align(own, start).start_distance
    mixed_distance = align(mix(own, condition=20), start).start_distance
    foreign_distance = align(drift(make_start(4, widths), size=0.2), start).start_distance
    lower_rank_distance = align(drift(make_start(2, widths), size=0.2), start).start_distance

    assert align(start, start).start_distance < 1e-6
    assert own_distance < 0.25
    assert mixed_distance == pytest.approx(own_distance, abs=1e-3)
    assert 0.8 <= foreign_distance <= 1
    assert 0.8 <= lower_rank_distance <= 1


def make_embedding_start() -> State:
    """Make an embedding's initial adapter as PEFT does: A zero, B normal."""
    return {"embed.lora_embedding_A": torch.zeros(3, 30), "embed.lora_embedding_B": torch.randn(16, 3)}


def test_an_embedding_adapter_of_the_own_start_is_left_bit_for_bit() -> None:
    start = make_embedding_start()
    state = {name: tensor + 0.05 * torch.randn(tensor.shape) for name, tensor in start.items()}

    aligned = align(state, start)

    assert aligned.is_identity
    assert aligned.start_distance < 0.2
    assert all(torch.equal(aligned.state[name], state[name]) for name in start)


def test_a_mixed_embedding_adapter_comes_back() -> None:
    start = make_embedding_start()
    state = {name: tensor + 0.05 * torch.randn(tensor.shape) for name, tensor in start.items()}
    g = torch.randn(3, 3) + 3 * torch.eye(3).flip(0)
    a, b = state["embed.lora_embedding_A"], state["embed.lora_embedding_B"]

    aligned = align({"embed.lora_embedding_A": g.inverse() @ a, "embed.lora_embedding_B": b @ g}, start)

    assert not aligned.is_identity
    new_a, new_b = aligned.state["embed.lora_embedding_A"], aligned.state["embed.lora_embedding_B"]
    assert relative_error(new_b @ new_a, b @ a) <= 1e-5
    assert relative_error(new_b, b) < 0.2


MODULE = "model.layers.0.self_attn.v_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{MODULE}.lora_B": None}, f"missing tensor '{MODULE}.lora_B'"),
        ({"layers.9.q.lora_A": torch.zeros(2, 3)}, "unexpected tensor 'layers.9.q.lora_A'"),
        ({f"{MODULE}.lora_B": torch.zeros(9, 2)}, f"module '{MODULE}' maps 48 to 9 features, expected 48 to 24"),
        ({f"{MODULE}.lora_B": torch.zeros(24, 5)}, "which do not multiply"),
    ],
)
def test_other_modules_or_widths_are_refused(change: dict[str, Tensor | None], words: str) -> None:
    start = make_start(2)
    state = {name: tensor for name, tensor in (start | change).items() if tensor is not None}

    with pytest.raises(LayoutError, match=words):
        align(state, start)


def test_an_empty_start_is_refused() -> None:
    with pytest.raises(LayoutError, match="got a start without tensors"):
        align({}, {})
