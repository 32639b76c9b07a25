from __future__ import annotations

import pytest
import torch

from gradtx_hf.errors import LayoutError
from tests.model.blocks import make_model, random_blocks


def test_statistics_of_a_wrong_shape_or_sign_are_refused() -> None:
    model = make_model()

    with pytest.raises(LayoutError, match="source_mean of shape"):
        model.set_statistics(source_mean=torch.zeros(2, 2))
    with pytest.raises(LayoutError, match="source_std"):
        model.set_statistics(source_std=torch.zeros_like(model.source_std))


def test_squared_errors_see_blocks_in_units_of_the_learned_scale() -> None:
    model = make_model(options={"learned_scale": True})
    assert model.target_scale is not None
    blocks = random_blocks(model.target_layout, 2)
    shifted = blocks + model.target_std * model.target_scale() * 0.5

    errors = model.squared_errors(shifted, blocks)

    sizes = torch.tensor([block.size for block in model.target_layout.blocks])
    torch.testing.assert_close(errors, 0.25 * sizes.expand(2, -1), atol=1e-4, rtol=1e-4)


def test_the_loss_does_not_teach_the_scale_to_grow() -> None:
    model = make_model(options={"learned_scale": True})
    assert model.target_scale is not None
    source, target = random_blocks(model.source_layout, 2), random_blocks(model.target_layout, 2, seed=1)

    model(source, target).loss.backward()

    assert model.target_scale.log_scale.grad is None
