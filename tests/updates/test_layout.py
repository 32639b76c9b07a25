"""BlockLayout: order, names and shapes of an update's tensors."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates import TOKEN_KINDS, BlockLayout
from tests.updates.shapes import lora_shapes


def test_one_block_per_layer_holds_its_tensors_without_gaps() -> None:
    layout = BlockLayout.from_shapes(lora_shapes())

    assert [block.name for block in layout.blocks] == ["model.layers.0", "model.layers.1"]
    assert [slot.offset for slot in layout.blocks[0].slots] == [0, 12, 24, 36]
    assert layout.block_dim == 12 + 12 + 12 + 6
    assert layout.num_elements == int(layout.mask().sum()) == 2 * layout.block_dim


def test_layer_ten_comes_after_layer_two() -> None:
    layout = BlockLayout.from_shapes(lora_shapes(num_layers=12))

    assert [block.name for block in layout.blocks] == [f"model.layers.{n}" for n in range(12)]


@given(st.randoms(use_true_random=False))
def test_order_of_the_shapes_does_not_matter(shuffler: random.Random) -> None:
    items = list(lora_shapes(num_layers=11).items())
    layout = BlockLayout.from_shapes(dict(items))
    shuffler.shuffle(items)

    assert BlockLayout.from_shapes(dict(items)) == layout


def test_blocks_of_different_size_are_masked() -> None:
    layout = BlockLayout.from_shapes(lora_shapes() | {"model.layers.1.mlp.up_proj.lora_A": (2, 6)})

    assert layout.blocks[1].size == layout.block_dim == layout.blocks[0].size + 12
    assert layout.mask().sum(1).tolist() == [block.size for block in layout.blocks]


def test_fingerprint_is_the_one_it_always_was() -> None:
    """A translator on the Hub carries this number: it may not change with a version of the package."""
    assert BlockLayout.from_shapes(lora_shapes()).fingerprint == "90adedf85d87c260"


def test_json_round_trip_keeps_layout_and_fingerprint() -> None:
    layout = BlockLayout.from_shapes(lora_shapes(num_layers=3)).reversed()

    again = BlockLayout.from_dict(json.loads(json.dumps(layout.to_dict())))

    assert again == layout
    assert again.fingerprint == layout.fingerprint


@pytest.mark.parametrize("other", [{"rank": 3}, {"num_layers": 3}, {"width": 8}, {"projections": ("q_proj",)}])
def test_other_shapes_have_another_fingerprint(other: dict[str, object]) -> None:
    layout = BlockLayout.from_shapes(lora_shapes())

    assert BlockLayout.from_shapes(lora_shapes(**other)).fingerprint != layout.fingerprint  # type: ignore[arg-type]


def test_reversed_order_is_its_own_inverse_and_another_layout() -> None:
    layout = BlockLayout.from_shapes(lora_shapes(num_layers=3))

    assert [block.name[-1] for block in layout.reversed().blocks] == ["2", "1", "0"]
    assert layout.reversed().reversed() == layout
    assert layout.reversed().fingerprint != layout.fingerprint


def test_projections_split_into_layouts_of_their_own() -> None:
    layout = BlockLayout.from_shapes(lora_shapes())

    parts = layout.by_projection()

    assert list(parts) == ["q_proj", "v_proj"]
    assert all(part.num_blocks == 2 for part in parts.values())
    assert sorted(name for part in parts.values() for name in part.shapes) == sorted(layout.shapes)


def test_token_kinds_give_one_block_per_layer_and_kind() -> None:
    shapes = lora_shapes() | {
        "model.layers.0.mlp.up_proj.lora_A": (2, 6),
        "model.embed_tokens.lora_embedding_A": (2, 30),
        "model.embed_tokens.lora_embedding_B": (6, 2),
    }

    layout = BlockLayout.from_shapes(shapes, token_kinds=TOKEN_KINDS)

    assert [(block.name, block.kind) for block in layout.blocks] == [
        ("model.embed_tokens", "embedding"),
        ("model.layers.0", "attention"),
        ("model.layers.0", "mlp"),
        ("model.layers.1", "attention"),
    ]
    assert layout.kinds == {"embedding": 72, "attention": 42, "mlp": 12}


def test_a_layout_is_a_value() -> None:
    assert len({BlockLayout.from_shapes(lora_shapes()), BlockLayout.from_shapes(lora_shapes())}) == 1


def test_no_tensor_is_refused() -> None:
    with pytest.raises(LayoutError, match="got an update without tensors"):
        BlockLayout.from_shapes({})


def test_an_empty_tensor_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"'layers.0.q.lora_A' is \[0, 4\], expected at least one element"):
        BlockLayout.from_shapes({"layers.0.q.lora_A": (0, 4)})


def test_a_module_outside_the_layers_is_refused_without_a_kind_for_it() -> None:
    with pytest.raises(LayoutError, match="module 'lm_head' lies outside the layers"):
        BlockLayout.from_shapes({"lm_head.lora_A": (2, 6)})


def test_a_module_of_no_kind_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"'layers.0.mixer.in_proj' is of none of the token kinds attention, mlp"):
        BlockLayout.from_shapes({"layers.0.mixer.in_proj.lora_A": (2, 6)}, token_kinds=TOKEN_KINDS)


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(LayoutError, match="keeps no tensor"):
        BlockLayout.from_shapes(lora_shapes()).select(lambda slot: False)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"projections": ("k_proj", "v_proj")}, "it adapts k_proj, v_proj, expected q_proj, v_proj. Train it with"),
        ({"num_layers": 3}, "unexpected model.layers.2.self_attn.q_proj.lora_A"),
        ({"num_layers": 1}, "missing model.layers.1.self_attn.q_proj.lora_A"),
        ({"rank": 4}, r"model.layers.0.self_attn.q_proj.lora_A is \[4, 6\], expected \[2, 6\]"),
    ],
)
def test_a_different_layout_is_refused_with_the_difference(other: dict[str, object], words: str) -> None:
    layout = BlockLayout.from_shapes(lora_shapes())
    met = BlockLayout.from_shapes(lora_shapes(**other))  # type: ignore[arg-type]

    with pytest.raises(LayoutError, match=f"adapter 'me/tiny' does not fit translator 'org/qwen': .*{words}"):
        layout.require(met, got="adapter 'me/tiny'", expected="translator 'org/qwen'")


def test_another_order_is_refused_with_that_reason() -> None:
    layout = BlockLayout.from_shapes(lora_shapes())

    with pytest.raises(LayoutError, match="the same tensors in another order"):
        layout.require(layout.reversed(), got="adapter", expected="translator")


BAD_VALUES: list[object] = [
    None,
    [],
    {},
    {"blocks": []},
    {"blocks": [{}]},
    {"blocks": [{"name": "a", "kind": "b", "tensors": [["m", "f"]]}]},
    {"blocks": [{"name": "a", "kind": "b", "tensors": [["m", "f", ["x"]]]}]},
    {"blocks": [{"name": "a", "kind": "b", "tensors": [["m", "f", [float("inf")]]]}]},
    {"blocks": [{"name": "a", "kind": "b", "tensors": [["m", "f", [-1, -2]]]}]},
    {"blocks": [{"name": "a", "kind": "b", "tensors": [["m", "f", [2]], ["m", "f", [2]]]}]},
]


@pytest.mark.parametrize("values", BAD_VALUES)
def test_values_that_are_no_layout_are_refused(values: object) -> None:
    with pytest.raises(LayoutError, match="got"):
        BlockLayout.from_dict(values)  # type: ignore[arg-type]
