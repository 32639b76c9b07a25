"""Bounds of mutual information against closed forms, the accountant's divergence, and mechanisms integrated out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from opacus.accountants.analysis.rdp import compute_rdp

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.accounting import NoisySteps
from gradtx_hf.finetuning.privacy import PrivacyStatement
from gradtx_hf.privacy.bounds import (
    generalisation_bound,
    information_of_runs,
    mutual_information_bound,
    step_divergence,
)


RUN: dict[str, Any] = {"noise_multiplier": 2.0, "sample_rate": 0.1, "num_steps": 10, "num_rows": 50}


def gaussian(places: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-(((places - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))


def entropy(density: np.ndarray, cell: float) -> float:
    positive = density[density > 0]
    return float(-(positive * np.log(positive)).sum() * cell)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 7.0])
def test_without_subsampling_it_is_the_gaussian_mechanisms(deviation: float) -> None:
    (rdp,) = np.atleast_1d(compute_rdp(q=1.0, noise_multiplier=deviation, steps=1, orders=[1.5]))

    closed = step_divergence(noise_multiplier=deviation, sample_rate=1.0)
    integrated = step_divergence(noise_multiplier=deviation, sample_rate=1 - 1e-12)

    assert closed == 1 / (2 * deviation**2)
    assert closed == pytest.approx(rdp / 1.5)  # order alpha: alpha / (2 s^2)
    assert integrated == pytest.approx(closed, rel=1e-8)


@pytest.mark.parametrize(("deviation", "rate"), [(0.5, 0.2), (1.0, 0.01), (1.0, 0.5), (4.0, 0.001), (0.3, 0.9)])
def test_it_is_the_limit_of_the_accountants_divergence_at_order_1(deviation: float, rate: float) -> None:
    orders = [1.3, 1.1, 1.02]

    rdp = compute_rdp(q=rate, noise_multiplier=deviation, steps=1, orders=orders)
    exact = step_divergence(noise_multiplier=deviation, sample_rate=rate)

    gaps = [float(value) - exact for value in rdp]
    assert gaps[0] > gaps[1] > gaps[2] > 0  # Rényi divergences fall with their order
    assert gaps[2] < 0.1 * gaps[0]


@pytest.mark.parametrize(("deviation", "rate"), [(3.0, 1e-6), (50.0, 0.01), (9e3, 1e-3)])
def test_small_divergences_lose_no_digits(deviation: float, rate: float) -> None:
    chi_squared = rate**2 * math.expm1(1 / deviation**2)

    exact = step_divergence(noise_multiplier=deviation, sample_rate=rate)

    assert exact == pytest.approx(chi_squared / 2, rel=1e-3)  # the leading term of KL


@pytest.mark.parametrize(("deviation", "rate"), [(0.05, 0.3), (0.01, 0.01), (1.0, 0.3)])
def test_it_stays_below_the_convexity_and_the_chi_squared_bound(deviation: float, rate: float) -> None:
    exact = step_divergence(noise_multiplier=deviation, sample_rate=rate)

    assert 0 < exact < rate / (2 * deviation**2)
    assert exact < rate**2 * math.expm1(min(1 / deviation**2, 700))


@pytest.mark.parametrize(
    ("name", "more", "is_raised"),
    [("noise_multiplier", 2.1, False), ("sample_rate", 0.11, True), ("num_steps", 11, True), ("num_rows", 51, True)],
)
def test_the_bound_is_monotone_in_everything(name: str, more: float, is_raised: bool) -> None:
    before, after = mutual_information_bound(**RUN), mutual_information_bound(**{**RUN, name: more})

    assert (after > before) is is_raised
    assert after != before


@pytest.mark.parametrize(
    ("deviation", "rate", "num_rows"), [(1.0, 1.0, 1), (0.7, 0.5, 3), (2.0, 0.3, 4), (0.3, 0.2, 2)]
)
def test_one_step_tells_no_more_than_the_bound(deviation: float, rate: float, num_rows: int) -> None:
    """Rows of -1 or 1 by fair coins, drawn with the rate, summed, with noise: its information by integration."""
    places = np.linspace(-num_rows - 9 * deviation, num_rows + 9 * deviation, 20001)
    cell = places[1] - places[0]
    given = [_one_step(places, rows, rate, deviation) for rows in itertools.product((-1, 1), repeat=num_rows)]

    information = entropy(np.mean(given, axis=0), cell) - float(np.mean([entropy(d, cell) for d in given]))
    bound = mutual_information_bound(noise_multiplier=deviation, sample_rate=rate, num_steps=1, num_rows=num_rows)

    assert 0 < information <= bound


def test_two_steps_that_see_each_other_tell_no_more_than_the_bound() -> None:
    """The second step's rows point the other way where the first came out negative."""
    deviation, rate, num_rows = 1.0, 0.6, 2
    places = np.linspace(-num_rows - 8, num_rows + 8, 801)
    cell = (places[1] - places[0]) ** 2
    signs = np.where(places < 0, -1, 1)
    given = []
    for rows in itertools.product((-1, 1), repeat=num_rows):
        second = {sign: _one_step(places, tuple(sign * row for row in rows), rate, deviation) for sign in (-1, 1)}
        first = _one_step(places, rows, rate, deviation)
        given.append(first[:, None] * np.stack([second[sign] for sign in signs]))

    information = entropy(np.mean(given, axis=0), cell) - float(np.mean([entropy(d, cell) for d in given]))
    bound = mutual_information_bound(noise_multiplier=deviation, sample_rate=rate, num_steps=2, num_rows=num_rows)

    assert 0 < information <= bound


def test_under_much_noise_the_bound_is_reached() -> None:
    deviation = 5.0
    places = np.linspace(-1 - 9 * deviation, 1 + 9 * deviation, 20001)
    given = [gaussian(places, row, deviation) for row in (-1, 1)]
    cell = places[1] - places[0]

    information = entropy(np.mean(given, axis=0), cell) - entropy(given[0], cell)

    bound = mutual_information_bound(noise_multiplier=deviation, sample_rate=1.0, num_steps=1, num_rows=1)
    assert 0.97 * bound < information < bound


def _one_step(places: np.ndarray, rows: tuple[int, ...], rate: float, deviation: float) -> np.ndarray:
    density = np.zeros_like(places)
    for drawn in itertools.product((0, 1), repeat=len(rows)):
        chance = math.prod(rate if is_in else 1 - rate for is_in in drawn)
        density += chance * gaussian(places, sum(r * d for r, d in zip(rows, drawn, strict=True)), deviation)
    return density


def test_the_lemma_and_what_is_vacuous() -> None:
    bound = generalisation_bound(2.0, num_rows=100, subgaussian=0.5)
    vacuous = generalisation_bound(200.0, num_rows=100, subgaussian=0.5)

    assert bound.gap == pytest.approx(math.sqrt(2 * 0.25 / 100 * 2))
    assert (bound.is_vacuous, vacuous.is_vacuous) == (False, True)
    assert vacuous.gap == pytest.approx(1.0)  # the whole range of the loss
    assert "says nothing" in str(vacuous)
    assert "says nothing" not in str(bound)


def test_runs_add_up_from_what_privacy_json_states() -> None:
    steps = NoisySteps(1.3, 0.125, 40)
    statement = PrivacyStatement(
        3.0, 1e-5, steps, expected_batch_size=32, max_grad_norm=1.0, clipping="ghost"
    ).to_dict()
    one = mutual_information_bound(noise_multiplier=1.3, sample_rate=0.125, num_steps=40, num_rows=256)

    assert information_of_runs([statement] * 3) == pytest.approx(3 * one)


def test_epsilon_and_delta_alone_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"shadow run 1 states no noise_multiplier: epsilon and delta alone"):
        information_of_runs([_statement(), {"epsilon": 1.0, "delta": 1e-5, "accountant": "prv"}])


def test_a_run_that_was_not_private_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="shadow run 0 was not differentially private"):
        information_of_runs([None])
    with pytest.raises(ConfigurationError, match="got no shadow run"):
        information_of_runs([])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise_multiplier": 0.0}, "got noise_multiplier=0.0"),
        ({"sample_rate": 1.5}, "got sample_rate=1.5"),
        ({"num_steps": 0}, "got num_steps=0"),
        ({"num_rows": 0}, "got num_rows=0"),
        ({"num_rows": 2.5}, "got num_rows=2.5"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        mutual_information_bound(**{**RUN, **changes})


@pytest.mark.parametrize(("information", "subgaussian"), [(-1.0, 1.0), (math.inf, 1.0), (math.nan, 1.0), (1.0, 0.0)])
def test_a_lemma_of_nonsense_is_refused(information: float, subgaussian: float) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        generalisation_bound(information, num_rows=10, subgaussian=subgaussian)


def _statement() -> dict[str, Any]:
    return {"noise_multiplier": 1.0, "sample_rate": 0.5, "num_steps": 1, "expected_batch_size": 8}
