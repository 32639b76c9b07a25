"""encode_update and decode_update are an exact pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates import TOKEN_KINDS, BlockLayout, decode_update, encode_update
from tests.updates.shapes import lora_shapes, random_state


shape_maps = st.dictionaries(
    st.builds(
        "model.layers.{}.{}.{}.{}".format,
        st.integers(0, 12),
        st.sampled_from(["self_attn", "mlp"]),
        st.sampled_from(["q_proj", "v_proj", "up_proj"]),
        st.sampled_from(["lora_A", "lora_B", "weight"]),
    ),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    min_size=1,
    max_size=12,
)


@given(shape_maps, st.booleans(), st.booleans())
def test_round_trip_is_bit_equal_for_any_shapes(
    shapes: dict[str, tuple[int, ...]], has_kinds: bool, is_reversed: bool
) -> None:
    layout = BlockLayout.from_shapes(shapes, token_kinds=TOKEN_KINDS if has_kinds else None)
    layout = layout.reversed() if is_reversed else layout
    state = random_state(shapes)

    tokens = encode_update(state, layout)
    decoded = decode_update(tokens, layout)

    assert tokens.shape == (layout.num_blocks, layout.block_dim)
    assert not tokens[~layout.mask()].any()
    assert decoded.keys() == state.keys()
    assert all(torch.equal(decoded[name], state[name]) for name in state)


def test_tensors_are_stored_row_major_in_layout_order() -> None:
    layout = BlockLayout.from_shapes(lora_shapes(num_layers=1))
    state = random_state(lora_shapes(num_layers=1))

    tokens = encode_update(state, layout)

    names = ["q_proj.lora_A", "q_proj.lora_B", "v_proj.lora_A", "v_proj.lora_B"]
    parts = [state[f"model.layers.0.self_attn.{name}"].flatten() for name in names]
    assert torch.equal(tokens[0], torch.cat(parts))


def test_order_of_the_state_does_not_matter() -> None:
    state = random_state(lora_shapes())
    layout = BlockLayout.from_shapes(lora_shapes())

    assert torch.equal(encode_update(dict(reversed(state.items())), layout), encode_update(state, layout))


def test_projections_translated_separately_decode_to_the_whole() -> None:
    state = random_state(lora_shapes())
    layout = BlockLayout.from_shapes(lora_shapes())

    merged: dict[str, torch.Tensor] = {}
    for part in layout.by_projection().values():
        merged |= decode_update(encode_update({name: state[name] for name in part.shapes}, part), part)

    assert merged.keys() == state.keys()
    assert all(torch.equal(merged[name], state[name]) for name in state)


def test_reversed_layout_reverses_the_tokens() -> None:
    state = random_state(lora_shapes(num_layers=3))
    layout = BlockLayout.from_shapes(lora_shapes(num_layers=3))

    assert torch.equal(encode_update(state, layout.reversed()), encode_update(state, layout).flip(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_survives_in_float32(dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random_state(lora_shapes()).items()}
    layout = BlockLayout.from_shapes(lora_shapes())

    decoded = decode_update(encode_update(state, layout), layout)

    assert all(torch.equal(decoded[name].to(dtype), state[name]) for name in state)


def test_decoded_tensors_are_copies() -> None:
    layout = BlockLayout.from_shapes(lora_shapes())
    tokens = torch.zeros(layout.num_blocks, layout.block_dim)

    next(iter(decode_update(tokens, layout).values())).fill_(1)

    assert not tokens.any()


NAME = "model.layers.0.self_attn.q_proj.lora_A"


def test_a_missing_tensor_is_refused() -> None:
    state = random_state(lora_shapes())
    del state[NAME]

    with pytest.raises(LayoutError, match=rf"missing tensor '{NAME}' \(1 missing in all\)"):
        encode_update(state, BlockLayout.from_shapes(lora_shapes()))


def test_an_unexpected_tensor_is_refused() -> None:
    state = random_state(lora_shapes()) | {"model.layers.0.extra.lora_A": torch.zeros(2, 2)}

    with pytest.raises(LayoutError, match=r"unexpected tensor 'model.layers.0.extra.lora_A'"):
        encode_update(state, BlockLayout.from_shapes(lora_shapes()))


def test_a_tensor_of_another_shape_is_refused() -> None:
    state = random_state(lora_shapes()) | {NAME: torch.zeros(6, 2)}

    with pytest.raises(LayoutError, match=rf"tensor '{NAME}' is \[6, 2\], expected \[2, 6\]"):
        encode_update(state, BlockLayout.from_shapes(lora_shapes()))


@pytest.mark.parametrize("shape", [(2, 41), (3, 42), (2, 1, 42), (42,)])
def test_tokens_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LayoutError, match=r"got tokens of shape .*, expected \[2, 42\]"):
        decode_update(torch.zeros(shape), BlockLayout.from_shapes(lora_shapes()))


def test_several_updates_are_decoded_at_once_and_gradients_flow_back() -> None:
    layout = BlockLayout.from_shapes(lora_shapes())
    tokens = torch.randn(3, layout.num_blocks, layout.block_dim, requires_grad=True)

    together = decode_update(tokens, layout)

    for k in range(3):
        for name, tensor in decode_update(tokens[k], layout).items():
            assert torch.equal(together[name][k], tensor)
    sum(tensor.sum() for tensor in together.values()).backward()
    assert torch.equal(tokens.grad, layout.mask().float().expand(3, -1, -1))
