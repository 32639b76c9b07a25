"""TIES and DARE are PEFT's own, with weights that keep the size of what clients share."""

from __future__ import annotations

import pytest
import torch
from peft.utils.merge_utils import dare_linear, dare_ties, ties
from torch import Tensor

from gradtx_hf.translation import Aggregation, AggregationSettings, aggregate_updates


TOKENS = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0))
WEIGHTS = [1.0, 2.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("rule", "merge", "factor"), [("ties", ties, 4), ("dare_linear", dare_linear, 1), ("dare_ties", dare_ties, 4 * 0.3)]
)
def test_it_is_what_peft_makes_of_the_same_tensors(rule: Aggregation, merge: object, factor: float) -> None:
    seed = None if rule == "ties" else 5
    merged = aggregate_updates(TOKENS, aggregation=AggregationSettings(rule, density=0.3, seed=seed), weights=WEIGHTS)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected: Tensor = merge([t.flatten() for t in TOKENS], factor * torch.tensor(WEIGHTS) / 8, 0.3)  # type: ignore[operator]
    torch.testing.assert_close(merged.flatten(), expected)


def test_ties_gives_an_update_that_all_have_back_but_for_its_small_elements() -> None:
    merged = aggregate_updates(TOKENS[:1].expand(5, 6, 50), aggregation=AggregationSettings("ties", density=0.2))

    largest = TOKENS[0].abs() >= TOKENS[0].abs().flatten().sort(descending=True).values[59]
    torch.testing.assert_close(merged, TOKENS[0] * largest)


def test_dare_gives_an_update_that_all_have_back_on_average() -> None:
    same = torch.ones(2000, 1, 20)

    assert aggregate_updates(same, aggregation="dare_linear").mean() == pytest.approx(1, abs=0.02)
    assert torch.equal(aggregate_updates(same, aggregation="dare_ties"), torch.ones(1, 20))


def test_what_is_dropped_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = aggregate_updates(TOKENS, aggregation="dare_linear")
    before = torch.random.get_rng_state()
    again = aggregate_updates(TOKENS, aggregation=AggregationSettings("dare_linear", seed=0))
    other = aggregate_updates(TOKENS, aggregation=AggregationSettings("dare_linear", seed=1))

    assert torch.equal(again, first)
    assert not torch.equal(other, first)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rule", ["ties", "dare_linear"])
def test_a_client_without_weight_takes_no_part(rule: Aggregation) -> None:
    merged = aggregate_updates(TOKENS, aggregation=rule, weights=[1, 1, 1, 0])

    torch.testing.assert_close(merged, aggregate_updates(TOKENS[:3], aggregation=rule))
