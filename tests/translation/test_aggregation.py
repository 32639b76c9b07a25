from __future__ import annotations

import random
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.translation import Aggregation, AggregationSettings, aggregate_updates
from gradtx_hf.translation.aggregation import aggregate_with_shares


AVERAGES = ("mean", "median", "trimmed_mean", "clipped_mean")
"""Rules that give back an update which all clients have."""
ORDERLESS = (*AVERAGES, "sum", "ties")
"""Rules without chance."""


def column(*values: float) -> torch.Tensor:
    """Return one update of one number per client, ``[C, 1, 1]``."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


@pytest.mark.parametrize(
    ("aggregation", "weights", "expected"),
    [
        ("mean", None, 26.5),
        ("sum", None, 106.0),
        ("mean", [1, 1, 2, 0], 2.25),
        ("mean", [10, 10, 20, 0], 2.25),
        ("sum", [1, 0.5, 2, 0], 8.0),
        ("median", None, 2.5),
        ("trimmed_mean", None, 2.5),
        ("clipped_mean", None, 1.75),
        ("clipped_mean", [1, 1, 1, 0], 5 / 3),
        ("clipped_mean", [0, 0, 1, 1], 2.0),
    ],
)
def test_rules_give_the_values_worked_out_by_hand(
    aggregation: str, weights: list[float] | None, expected: float
) -> None:
    aggregate = aggregate_updates(column(1, 2, 3, 100), aggregation=aggregation, weights=weights)  # type: ignore[arg-type]

    assert aggregate.item() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", [*AVERAGES, "sum"])
def test_one_client_is_its_own_aggregate(aggregation: str) -> None:
    tokens = torch.randn(1, 3, 4)

    assert torch.equal(aggregate_updates(tokens, aggregation=aggregation), tokens[0])  # type: ignore[arg-type]


def test_the_median_of_an_odd_number_is_the_middle_one() -> None:
    assert aggregate_updates(column(5, -100, 7), aggregation="median").item() == 5


def test_a_fifth_is_trimmed_at_either_end() -> None:
    values = [-1000.0, -900.0, *range(6), 900.0, 1000.0]

    assert aggregate_updates(column(*values), aggregation="trimmed_mean").item() == pytest.approx(2.5)


def test_the_median_has_no_limit_of_size() -> None:
    tokens = torch.zeros(3, 1, 2**23)  # torch.quantile takes 2**24 elements

    assert aggregate_updates(tokens, aggregation="median").shape == (1, 2**23)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "mode"}, "got aggregation 'mode', expected one of mean, sum, median, trimmed_mean, "),
        ({"weights": [1.0]}, "got 1 weights for 2 adapters, expected one each"),
        ({"weights": [1.0, -1.0]}, "expected finite values >= 0, not all zero"),
        ({"weights": [0.0, 0.0]}, "expected finite values >= 0, not all zero"),
        ({"weights": [float("nan"), 1.0]}, "expected finite values >= 0, not all zero"),
        ({"weights": [1.0, 1.0], "aggregation": "median"}, "weights do not go with median"),
        ({"weights": [1.0, 1.0], "aggregation": "trimmed_mean"}, "weights do not go with trimmed_mean"),
        ({"aggregation": AggregationSettings("trimmed_mean", trim=1)}, "got trim=1 for 2 adapters: nothing would be"),
    ],
)
def test_rules_and_weights_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        aggregate_updates(column(1, 2), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "mode"}, "got aggregation 'mode'"),
        ({"merge": "never"}, "got merge 'never', expected one of before, after"),
        ({"trim": 1}, "trim goes with trimmed_mean, not with mean. Leave it out"),
        ({"rule": "trimmed_mean", "clip_norm": 1.0}, "clip_norm goes with clipped_mean, not with trimmed_mean"),
        ({"rule": "median", "density": 0.5}, "density goes with ties and dare_linear and dare_ties, not with median"),
        ({"rule": "ties", "seed": 1}, "seed goes with dare_linear and dare_ties, not with ties"),
        ({"rule": "trimmed_mean", "trim": 0.5}, "got trim=0.5, expected a share of the clients in"),
        ({"rule": "trimmed_mean", "trim": 1.5}, "got trim=1.5, expected a share"),
        ({"rule": "trimmed_mean", "trim": -1}, "got trim=-1, expected a share"),
        ({"rule": "trimmed_mean", "trim": float("nan")}, "got trim=nan, expected a share"),
        ({"rule": "trimmed_mean", "trim": float("inf")}, "got trim=inf, expected a share"),
        ({"rule": "clipped_mean", "clip_norm": 0.0}, "got clip_norm=0.0, expected a positive number"),
        ({"rule": "clipped_mean", "clip_norm": float("nan")}, "got clip_norm=nan, expected a positive number"),
        ({"rule": "ties", "density": 1.0}, r"got density=1.0, expected a share in \(0, 1\)"),
        ({"rule": "dare_ties", "seed": -1}, "got seed=-1, expected 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AggregationSettings(**values)


@pytest.mark.parametrize(
    ("trim", "num_clients", "expected"),
    [(None, 2, 0), (None, 3, 1), (None, 10, 2), (0, 5, 0), (0.4, 5, 2), (0.3, 10, 3), (2, 5, 2), (2.0, 6, 2)],
)
def test_what_is_trimmed_is_a_share_or_a_number(trim: float | None, num_clients: int, expected: int) -> None:
    assert AggregationSettings("trimmed_mean", trim=trim).num_trimmed(num_clients) == expected


def test_a_given_norm_is_the_limit_of_every_update() -> None:
    tokens = torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])  # norms 5 and 0.5

    aggregate = aggregate_updates(tokens, aggregation=AggregationSettings("clipped_mean", clip_norm=1.0))

    torch.testing.assert_close(aggregate, torch.tensor([[0.45, 0.6]]))


def random_tokens(num_clients: int, seed: int) -> torch.Tensor:
    return torch.randn(num_clients, 3, 5, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(rule=st.sampled_from(ORDERLESS), num_clients=st.integers(1, 7), seed=st.integers(0, 2**16))
def test_the_order_of_the_clients_does_not_matter(rule: Aggregation, num_clients: int, seed: int) -> None:
    tokens = random_tokens(num_clients, seed)
    order = random.Random(seed).sample(range(num_clients), num_clients)

    one = aggregate_with_shares(tokens, aggregation=rule)
    other = aggregate_with_shares(tokens[order], aggregation=rule)

    torch.testing.assert_close(other.values, one.values)
    assert other.shares == pytest.approx([one.shares[k] for k in order])


@settings(deadline=None, max_examples=20)
@given(rule=st.sampled_from(AVERAGES), num_clients=st.integers(1, 7), seed=st.integers(0, 2**16))
def test_clients_of_one_update_give_it_back_in_equal_shares(rule: Aggregation, num_clients: int, seed: int) -> None:
    tokens = random_tokens(1, seed).expand(num_clients, 3, 5)

    aggregate = aggregate_with_shares(tokens, aggregation=rule)

    torch.testing.assert_close(aggregate.values, tokens[0])
    assert aggregate.shares == pytest.approx([1 / num_clients] * num_clients)


@settings(deadline=None, max_examples=20)
@given(
    rule=st.sampled_from(["mean", "sum", "clipped_mean"]),
    weights=st.lists(st.integers(0, 3), min_size=2, max_size=5).filter(lambda w: sum(w) > 0),
    seed=st.integers(0, 2**16),
)
def test_a_whole_weight_counts_as_so_many_clients(rule: Aggregation, weights: list[int], seed: int) -> None:
    tokens = random_tokens(len(weights), seed)
    chosen = AggregationSettings(rule, clip_norm=3.0 if rule == "clipped_mean" else None)
    repeated = tokens.repeat_interleave(torch.tensor(weights), dim=0)

    weighted = aggregate_updates(tokens, aggregation=chosen, weights=weights)

    torch.testing.assert_close(weighted, aggregate_updates(repeated, aggregation=chosen))


@settings(deadline=None, max_examples=30)
@given(num_clients=st.integers(3, 9), data=st.data(), seed=st.integers(0, 2**16))
def test_fewer_than_half_of_the_clients_cannot_move_the_median_out_of_the_others(
    num_clients: int, data: st.DataObject, seed: int
) -> None:
    num_bad = data.draw(st.integers(1, (num_clients - 1) // 2))
    tokens = random_tokens(num_clients, seed)
    tokens[:num_bad] = 1e30 * random_tokens(num_bad, seed + 1)
    honest = tokens[num_bad:]

    for chosen in (AggregationSettings("median"), AggregationSettings("trimmed_mean", trim=num_bad)):
        aggregate = aggregate_updates(tokens, aggregation=chosen)

        assert bool((aggregate >= honest.min(0).values - 1e-6).all())
        assert bool((aggregate <= honest.max(0).values + 1e-6).all())


def test_half_of_the_clients_move_every_rule() -> None:
    tokens = column(0, 0, 1e30, 1e30)

    for chosen in (AggregationSettings("median"), AggregationSettings("trimmed_mean", trim=1)):
        assert aggregate_updates(tokens, aggregation=chosen).item() > 1e29


def test_a_clipped_client_moves_the_mean_by_its_share_of_the_usual_norm_at_most() -> None:
    tokens = random_tokens(5, 0)
    moved = tokens.clone()
    moved[0] *= -1e6

    difference = (aggregate_updates(moved, aggregation="clipped_mean") - aggregate_updates(tokens)).norm()

    assert difference <= 2 * tokens.flatten(1).norm(dim=1).max() / 5 + 0.5


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "ties", "dare_linear", "dare_ties"])
def test_shares_sum_to_one(rule: Aggregation) -> None:
    assert sum(aggregate_with_shares(random_tokens(6, 0), aggregation=rule).shares) == pytest.approx(1)


def test_shares_say_how_much_of_each_update_is_in_the_aggregate() -> None:
    tokens = torch.tensor([[1.0, 1.0, 9.0, 9.0], [2.0, 2.0, 2.0, 8.0], [3.0, 3.0, 3.0, 7.0]])

    assert aggregate_with_shares(tokens, aggregation="median").shares == pytest.approx((0, 0.75, 0.25))
    assert aggregate_with_shares(tokens, weights=[1, 2, 1]).shares == pytest.approx((0.25, 0.5, 0.25))
    assert aggregate_with_shares(column(1, 2, 8), aggregation="clipped_mean").shares == pytest.approx(
        (1 / 3, 1 / 3, 1 / 12)
    )


def test_every_rule_keeps_shape_and_dtype() -> None:
    for rule in get_args(Aggregation):
        aggregate = aggregate_updates(random_tokens(4, 0), aggregation=rule)

        assert (aggregate.shape, aggregate.dtype) == ((3, 5), torch.float32)
