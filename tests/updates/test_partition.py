from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, LayoutError
from gradtx_hf.updates import BlockLayout, decode_update, encode_update
from gradtx_hf.updates.partition import StoreView, partition_store
from gradtx_hf.updates.store import SIDES, UpdateStore


def make_layout(num_layers: int, width: int, *, projections: tuple[str, ...] = ("q_proj", "v_proj")) -> BlockLayout:
    """Make a layout of blocks that differ in size: the first layer's q_proj is wider."""
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(num_layers):
        for projection in projections:
            module = f"model.layers.{n}.self_attn.{projection}"
            shapes[f"{module}.lora_A"] = (2, width + (3 if n == 0 and projection == "q_proj" else 0))
            shapes[f"{module}.lora_B"] = (width // 2, 2)
    return BlockLayout.from_shapes(shapes, token_kinds=None)


def make_state(layout: BlockLayout, *, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in layout.shapes.items()}


@pytest.fixture(scope="module")
def states(store: UpdateStore) -> dict[tuple[str, int], dict[str, torch.Tensor]]:
    return {(side, n): make_state(store.layout(side), seed=n) for side in SIDES for n in range(2)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> UpdateStore:
    folder = tmp_path_factory.mktemp("partition") / "store"
    layouts = {"source": make_layout(2, 4), "target": make_layout(12, 6)}
    store = UpdateStore.create(
        folder, plan={"num_shadow_sets": 1}, source_layout=layouts["source"], target_layout=layouts["target"]
    )
    for side in SIDES:
        updates = [encode_update(make_state(layouts[side], seed=n), layouts[side]) for n in range(2)]
        store.write(side, 0, torch.stack(updates), {})
    store.finish()
    return UpdateStore.open(folder)


def test_blocks_are_the_store_as_it_is(store: UpdateStore) -> None:
    (view,) = partition_store(store, "block").values()

    assert (view.source_layout, view.target_layout) == (store.source_layout, store.target_layout)
    assert (view.num_shadow_sets, view.pairs, view.source_snapshots) == (1, store.pairs, store.source_snapshots)
    for side in SIDES:
        assert torch.equal(view.read(side, 0), store.read(side, 0))
        assert torch.equal(view.snapshot(side, 0, -1), store.snapshot(side, 0, -1))


def test_projections_share_out_every_tensor_unchanged(
    store: UpdateStore, states: dict[tuple[str, int], dict[str, torch.Tensor]]
) -> None:
    views = partition_store(store, "projection")

    assert list(views) == ["q_proj", "v_proj"]
    for side in SIDES:
        merged: dict[str, torch.Tensor] = {}
        for name, view in views.items():
            layout = getattr(view, f"{side}_layout")
            assert layout.projections == (name,)
            merged |= decode_update(view.snapshot(side, 0, -2), layout)
        expected = states[side, 0]
        assert merged.keys() == expected.keys()
        assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_reversed_is_the_last_block_first_on_both_sides(store: UpdateStore) -> None:
    (view,) = partition_store(store, "reversed").values()

    for side in SIDES:
        assert torch.equal(view.read(side, 0), store.read(side, 0).flip(1))
    assert view.target_layout.blocks[0].name == "model.layers.11"


def test_padding_stays_zero(store: UpdateStore) -> None:
    for partition in ("block", "projection", "reversed"):
        for view in partition_store(store, partition).values():  # type: ignore[arg-type]
            for side in SIDES:
                tokens = view.read(side, 0)
                assert not bool(tokens[:, ~getattr(view, f"{side}_layout").mask()].any())


def test_another_partition_is_refused(store: UpdateStore) -> None:
    with pytest.raises(ConfigurationError, match="got partition 'layer', expected one of block, projection, reversed"):
        partition_store(store, "layer")  # type: ignore[arg-type]


def test_projections_that_differ_cannot_be_paired(tmp_path: Path) -> None:
    store = UpdateStore.create(
        tmp_path / "store",
        plan={"num_shadow_sets": 1},
        source_layout=make_layout(2, 4),
        target_layout=make_layout(2, 4, projections=("c_attn",)),
    )

    with pytest.raises(ConfigurationError, match=r"the source adapts q_proj, v_proj and the target c_attn"):
        partition_store(store, "projection")


def test_a_part_with_tensors_of_its_own_is_refused(store: UpdateStore) -> None:
    with pytest.raises(LayoutError, match=r"k_proj\.lora_A', which the whole does not have"):
        StoreView(store, source_layout=make_layout(2, 4, projections=("k_proj",)), target_layout=store.target_layout)
