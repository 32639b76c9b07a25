from __future__ import annotations

import pytest
import torch

from gradtx_hf.errors import DataError
from gradtx_hf.model import TokenStatistics
from tests.model.blocks import KINDS, make_layout, random_blocks


def test_streamed_statistics_equal_those_of_all_tokens_at_once() -> None:
    layout = make_layout(3, 4, kinds=KINDS)
    # a mean that is large against the spread, as tensors that drift together have it
    tokens = (random_blocks(layout, 50) * 1e-3 + 10) * layout.mask()
    statistics = TokenStatistics(layout)

    for part in tokens.split([1, 30, 19]):
        statistics.update(part)
    mean, std = statistics.result()

    torch.testing.assert_close(mean, tokens.double().mean(0).float())
    for n, slot in layout.slots.values():
        values = tokens[:, n, slot.offset : slot.offset + slot.num_elements].double()
        expected = values.var(0, correction=0).mean().sqrt().float()
        assert std[n, slot.offset : slot.offset + slot.num_elements].unique().numel() == 1
        torch.testing.assert_close(std[n, slot.offset], expected, rtol=1e-5, atol=0)


def test_padding_is_the_identity() -> None:
    layout = make_layout(3, 4)
    statistics = TokenStatistics(layout)

    statistics.update(random_blocks(layout, 5) + 7.0)
    mean, std = statistics.result()

    assert (mean[~layout.mask()] == 0).all()
    assert (std[~layout.mask()] == 1).all()


def test_a_tensor_that_never_moves_gets_the_floor() -> None:
    layout = make_layout(2, 3)
    tokens = random_blocks(layout, 20)
    tokens[:, 0, :6] = 0.0  # lora_A of the first block
    statistics = TokenStatistics(layout)

    statistics.update(tokens)
    _, std = statistics.result()

    torch.testing.assert_close(std[0, 0], 1e-4 * std[layout.mask()].max())


def test_identical_tokens_get_a_unit_spread() -> None:
    layout = make_layout(2, 3)
    statistics = TokenStatistics(layout)

    statistics.update(random_blocks(layout, 1))
    _, std = statistics.result()

    assert (std == 1).all()


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="at least one pair"):
        TokenStatistics(make_layout(2, 3)).result()
