"""The classifier of two samples against brute force, another solver, and distributions whose divergence is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradtx_hf.privacy.two_sample import (
    MAX_DIRECTIONS,
    PENALTY,
    TwoSampleResult,
    auc,
    auc_interval,
    compare_samples,
    held_out_log_odds,
    principal_scores,
)


def normal(num_rows: int, *, mean: float = 0.0, num_features: int = 4, seed: int = 0) -> Tensor:
    """Rows of a standard normal distribution whose first feature has another mean."""
    rows = torch.randn(num_rows, num_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[:, 0] += mean
    return rows


def compared(first: Tensor, second: Tensor, *, num_permutations: int = 19, seed: int = 0) -> TwoSampleResult:
    return compare_samples(
        first,
        second,
        folds=torch.arange(len(first) + len(second)) % 5,
        num_permutations=num_permutations,
        generator=torch.Generator().manual_seed(seed),
    )


def test_auc_is_the_share_of_pairs_in_order() -> None:
    higher, lower = torch.tensor([3.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 2.0])
    pairs = [(h > l_) + 0.5 * (h == l_) for h in higher for l_ in lower]

    assert auc(higher, lower) == pytest.approx(float(sum(pairs)) / len(pairs))
    assert auc_interval(higher, lower)[0] == auc(higher, lower)
    assert auc(lower, higher) == pytest.approx(1 - auc(higher, lower))


def test_the_interval_of_the_auc_covers_the_true_one() -> None:
    mean = 0.8
    true = 0.5 * (1 + math.erf(mean / 2))  # P(N(mean, 1) > N(0, 1))
    covered = []
    for seed in range(300):
        first, second = normal(80, mean=mean, num_features=1, seed=2 * seed), normal(120, seed=2 * seed + 1)
        _, low, high = auc_interval(first[:, 0].contiguous(), second[:, 0].contiguous())
        covered.append(low <= true <= high)

    assert 0.91 <= sum(covered) / len(covered) <= 0.98  # 95 %, give or take three standard errors


def test_the_weights_are_those_of_another_solver() -> None:
    first, second = normal(60, mean=1.0, seed=1), normal(40, seed=2)
    features, is_first = torch.cat([first, second]), torch.arange(100) < 60
    folds = torch.zeros(100, dtype=torch.long)
    folds[::4] = 1  # rows of fold 1 are scored by what was fitted on fold 0

    found = held_out_log_odds(features, is_first, folds)

    kept, own = features[folds == 0], is_first[folds == 0]
    importance = torch.where(own, 0.5 * len(own) / own.sum(), 0.5 * len(own) / (~own).sum())
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, intercept], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = kept @ weights + intercept
        loss = -(importance * logsigmoid(torch.where(own, scores, -scores))).sum() + PENALTY * weights @ weights / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = (features @ weights + intercept).detach()
    torch.testing.assert_close(found[folds == 1], expected[folds == 1], rtol=0, atol=1e-4)


def test_one_distribution_is_not_told_apart() -> None:
    p_values = [compared(normal(80, seed=2 * k), normal(80, seed=2 * k + 1)).p_value for k in range(10)]

    same = compared(normal(600, seed=100), normal(600, seed=101))
    assert sum(p <= 0.1 for p in p_values) <= 4  # 1 is expected; more than 4 of 10 have a chance of 0.2 %
    assert same.p_value > 0.05
    assert same.auc_low < 0.5 < same.auc_high + 0.05
    assert same.kl.low == same.jensen_shannon.low == 0.0


def test_a_shift_is_found_and_its_divergence_bounded_from_below() -> None:
    mean = 1.5
    result = compared(normal(1500, mean=mean, seed=3), normal(1500, seed=4))

    true_kl = mean**2 / 2
    true_auc = 0.5 * (1 + math.erf(mean / 2))
    true_js = _jensen_shannon(mean)
    assert result.p_value == pytest.approx(1 / 20)
    assert result.auc_low <= true_auc <= result.auc_high
    assert 0.8 * true_kl < result.kl.estimate < true_kl + 0.1
    assert result.kl.low < min(result.kl.estimate, true_kl)
    assert 0.9 * true_js < result.jensen_shannon.estimate < true_js + 0.02
    assert result.jensen_shannon.low < min(result.jensen_shannon.estimate, true_js)


def test_samples_without_overlap_reach_the_ends_and_no_further() -> None:
    num_rows = 400
    result = compared(normal(num_rows, mean=30.0, seed=5), normal(num_rows, seed=6))

    assert result.auc == result.auc_high == 1.0
    assert 0.6 < result.jensen_shannon.estimate <= math.log(2)
    assert 2.0 < result.kl.estimate <= math.log(num_rows) / 2 + 1  # what clipping allows; the truth is 450


def test_the_same_seed_gives_the_same_result() -> None:
    samples = normal(60, mean=0.3, seed=7), normal(60, seed=8)

    assert compared(*samples) == compared(*samples)


def test_only_leading_directions_are_seen_and_constant_features_do_no_harm() -> None:
    features = normal(200, num_features=MAX_DIRECTIONS + 20)
    features[:, 3] = 7.0

    scores = principal_scores(features)

    assert scores.shape == (200, MAX_DIRECTIONS)
    assert scores.isfinite().all()
    assert float(scores.square().mean()) == pytest.approx(1.0)


def _jensen_shannon(mean: float) -> float:
    places = torch.linspace(-10, 12, 20001, dtype=torch.float64)
    first, second = (torch.exp(-((places - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (mean, 0.0))
    middle = (first + second) / 2
    integrand = (first * (first / middle).log() + second * (second / middle).log()) / 2
    return float(torch.trapezoid(integrand, places))
