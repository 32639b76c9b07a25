from __future__ import annotations

import pytest
import torch

from gradtx_hf.model.linear_path import LinearPath
from tests.model.blocks import KINDS, make_layout, random_blocks


def make_path(kinds: dict[str, str] | None = None) -> LinearPath:
    path = LinearPath(make_layout(3, 4, kinds=kinds), make_layout(4, 5, kinds=kinds), rank=3)
    path.init_weights()
    return path


@pytest.mark.parametrize("kinds", [None, KINDS])
def test_the_path_is_two_matrices_on_the_elements_that_are_no_padding(kinds: dict[str, str] | None) -> None:
    path = make_path(kinds)
    torch.nn.init.normal_(path.up.weight)
    torch.nn.init.normal_(path.up.bias)
    source_mask, target_mask = make_layout(3, 4, kinds=kinds).mask(), make_layout(4, 5, kinds=kinds).mask()
    source = random_blocks(make_layout(3, 4, kinds=kinds), 2) + ~source_mask * 9.0

    mapped = path(source)

    flat = torch.stack([one[source_mask] for one in source])
    torch.testing.assert_close(
        torch.stack([one[target_mask] for one in mapped]),
        flat @ path.down.weight.T @ path.up.weight.T + path.up.bias,
    )
    assert (mapped[:, ~target_mask] == 0).all()


def test_a_new_path_has_codes_of_unit_variance_and_predicts_the_mean() -> None:
    torch.manual_seed(0)
    layout = make_layout(8, 16)
    path = LinearPath(layout, layout, rank=64)
    path.init_weights()

    codes = path.down(torch.randn(256, layout.num_elements))

    # 256 x 64 draws: the variance is within a few percent of 1
    assert 0.8 < float(codes.detach().var()) < 1.2
    assert (path(random_blocks(layout, 2)) == 0).all()


def test_the_first_gradients_reach_the_second_map() -> None:
    path = make_path()

    path(random_blocks(make_layout(3, 4), 2)).sum().backward()

    assert path.up.weight.grad is not None
    assert path.up.weight.grad.any()
