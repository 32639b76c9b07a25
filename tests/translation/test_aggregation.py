from __future__ import annotations

import pytest
import torch

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.translation import aggregate_updates


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
    ],
)
def test_rules_give_the_values_worked_out_by_hand(
    aggregation: str, weights: list[float] | None, expected: float
) -> None:
    aggregate = aggregate_updates(column(1, 2, 3, 100), aggregation=aggregation, weights=weights)  # type: ignore[arg-type]

    assert aggregate.item() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "median", "trimmed_mean"])
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
        ({"aggregation": "mode"}, "got aggregation 'mode', expected one of mean, sum, median, trimmed_mean"),
        ({"weights": [1.0]}, "got 1 weights for 2 adapters, expected one each"),
        ({"weights": [1.0, -1.0]}, "expected finite values >= 0, not all zero"),
        ({"weights": [0.0, 0.0]}, "expected finite values >= 0, not all zero"),
        ({"weights": [float("nan"), 1.0]}, "expected finite values >= 0, not all zero"),
        ({"weights": [1.0, 1.0], "aggregation": "median"}, "weights go with mean and sum, not with median"),
    ],
)
def test_rules_and_weights_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        aggregate_updates(column(1, 2), **options)  # type: ignore[arg-type]
