from __future__ import annotations

import pytest
import torch
from scipy.stats import beta, norm

from gradtx_hf.errors import DataError
from gradtx_hf.privacy.membership import describe_rates, measure_membership, roc_curve


def normal(num: int, *, mean: float = 0.0, seed: int = 0) -> torch.Tensor:
    return mean + torch.randn(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_area_is_that_under_the_curve() -> None:
    members, others = normal(300, mean=1.0).round(decimals=1), normal(200, seed=1).round(decimals=1)

    false, true = roc_curve(members, others)

    assert (float(false[0]), float(true[0]), float(false[-1]), float(true[-1])) == (0, 0, 1, 1)
    assert bool((false.diff() >= 0).all())
    assert bool((true.diff() >= 0).all())
    assert float(torch.trapezoid(true, false)) == pytest.approx(measure_membership(members, others).auc)


def test_normal_scores_give_what_theory_says() -> None:
    found = measure_membership(normal(4000, mean=1.0), normal(4000, seed=1))

    assert found.auc == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.015)
    assert found.auc_low < norm.cdf(1 / 2**0.5) < found.auc_high
    assert found.auc_high - found.auc_low == pytest.approx(0.019, abs=0.004)
    assert found.is_caught
    for rate, tolerance in zip(found.rates, (0.03, 0.02), strict=True):
        assert rate.value == pytest.approx(norm.sf(norm.isf(rate.false_positive_rate) - 1), abs=tolerance)
        assert rate.low is not None
        assert rate.high is not None
        assert rate.value is not None
        assert rate.low < rate.value < rate.high


def test_a_rate_counts_members_above_all_but_the_allowed_non_members() -> None:
    others = torch.arange(200.0)  # two of them may lie above: the threshold is 197
    members = torch.tensor([197.0, 197.5, 198.5, 500.0])

    first, second = measure_membership(members, others).rates

    assert first.value == 0.75
    assert first.low == pytest.approx(beta.ppf(0.025, 3, 2))
    assert second.value is None
    assert second.reason == "200 non-members are too few: it takes 1,000 or more"
    assert describe_rates([first, second])[1] == "- (200 non-members are too few: it takes 1,000 or more)"


def test_scores_of_one_kind_are_not_caught() -> None:
    found = measure_membership(normal(500, seed=3), normal(500, seed=4))

    assert not found.is_caught
    assert found.auc_low < 0.5 < found.auc_high


def test_the_interval_of_the_area_holds_it_nearly_as_often_as_it_says() -> None:
    truth = norm.cdf(0.5 / 2**0.5)
    found = [measure_membership(normal(60, mean=0.5, seed=2 * i), normal(60, seed=2 * i + 1)) for i in range(200)]

    assert sum(one.auc_low <= truth <= one.auc_high for one in found) >= 180


def test_an_area_of_one_is_not_taken_for_certain() -> None:
    few = measure_membership(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    many = measure_membership(torch.arange(40.0) + 100, torch.arange(90.0))

    assert (few.auc, few.auc_high, few.is_caught) == (1.0, 1.0, False)
    assert few.auc_low == pytest.approx(beta.ppf(0.025, 2, 1))
    assert many.auc_low == pytest.approx(beta.ppf(0.025, 40, 1))
    assert many.is_caught


def test_too_few_rows_and_losses_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="got 1 members, expected at least 2"):
        measure_membership(normal(1), normal(9))
    with pytest.raises(DataError, match="among the non-members is not finite"):
        measure_membership(normal(3), torch.tensor([1.0, float("inf")]))
