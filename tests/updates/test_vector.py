"""UpdateVector: differences, means, norms and angles of updates."""

from __future__ import annotations

import math

import pytest
import torch

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates import BlockLayout, UpdateVector, mean_update
from tests.updates.shapes import lora_shapes, random_state


LAYOUT = BlockLayout.from_shapes(lora_shapes() | {"model.layers.1.mlp.up_proj.weight": (3, 3)})


def random_update() -> UpdateVector:
    return UpdateVector(torch.randn(LAYOUT.num_blocks, LAYOUT.block_dim) * LAYOUT.mask(), LAYOUT)


def test_an_update_added_to_its_start_gives_the_end() -> None:
    before, after = random_state(LAYOUT.shapes), random_state(LAYOUT.shapes)

    restored = UpdateVector.between(after, before, LAYOUT).added_to(before)

    for name, tensor in after.items():
        torch.testing.assert_close(restored[name], tensor, atol=1e-6, rtol=0)


def test_an_update_between_equal_states_is_zero() -> None:
    state = random_state(LAYOUT.shapes)

    assert UpdateVector.between(state, state, LAYOUT).norm == 0


def test_norms_ignore_nothing_but_padding() -> None:
    update = random_update()
    elements = torch.cat([tensor.flatten() for tensor in update.added_to(dict_of_zeros()).values()])

    assert update.norm == pytest.approx(float(elements.norm()), rel=1e-6)


def dict_of_zeros() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in LAYOUT.shapes.items()}


def test_cosine_is_one_with_itself_and_minus_one_with_its_opposite() -> None:
    update = random_update()

    assert update.cosine(UpdateVector(3 * update.tokens, LAYOUT)) == pytest.approx(1)
    assert update.cosine(UpdateVector(-update.tokens, LAYOUT)) == pytest.approx(-1)


def test_cosine_with_no_update_is_zero() -> None:
    nothing = UpdateVector(torch.zeros(LAYOUT.num_blocks, LAYOUT.block_dim), LAYOUT)

    assert random_update().cosine(nothing) == 0
    assert not math.isnan(nothing.cosine(nothing))


def test_mean_is_the_mean_of_the_tensors() -> None:
    updates = [random_update() for _ in range(3)]

    mean = mean_update(updates)

    torch.testing.assert_close(mean.tokens, (updates[0].tokens + updates[1].tokens + updates[2].tokens) / 3)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(LayoutError, match="got no update to average"):
        mean_update([])


def test_updates_of_different_layouts_are_refused() -> None:
    other_layout = BlockLayout.from_shapes(lora_shapes())
    other = UpdateVector(torch.zeros(other_layout.num_blocks, other_layout.block_dim), other_layout)

    with pytest.raises(LayoutError, match="one update does not fit another"):
        mean_update([random_update(), other])
    with pytest.raises(LayoutError, match="one update does not fit the other"):
        random_update().cosine(other)


def test_tokens_of_another_shape_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"got tokens of shape \[2, 3\]"):
        UpdateVector(torch.zeros(2, 3), LAYOUT)
