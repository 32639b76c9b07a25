from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.dp_event import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

from gradtx_hf import client
from gradtx_hf.errors import ConfigurationError, MissingExtraError
from gradtx_hf.finetuning import accounting
from gradtx_hf.finetuning.accounting import NoisySteps, compose, epsilon, noise_multiplier


QUICK = [
    (NoisySteps(1.0, 0.01, 1000), 1e-5),
    (NoisySteps(4.0, 0.05, 500), 1e-6),
    (NoisySteps(60.0, 0.1, 200), 1e-5),
    (NoisySteps(1.0, 1.0, 50), 1e-5),
]
GRID = [
    (NoisySteps(noise, rate, num_steps), delta)
    for (noise, rate), (num_steps, delta) in itertools.product(
        [(0.6, 0.02), (0.9, 0.1), (1.5, 0.004), (3.0, 0.25), (20.0, 0.5)],
        [(20, 1e-3), (200, 1e-5), (2000, 1e-6), (700, 1e-8)],
    )
]


def google_epsilon(runs: list[NoisySteps], delta: float) -> float:
    """Return the oracle: Google's accountant of privacy loss distributions, pessimistic at an interval of 1e-4."""
    accountant = PLDAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    for run in runs:
        step = PoissonSampledDpEvent(run.sample_rate, GaussianDpEvent(run.noise_multiplier))
        accountant.compose(step, run.num_steps)
    return float(accountant.get_epsilon(delta))


def assert_agrees(runs: list[NoisySteps], delta: float) -> None:
    found, expected = compose(runs, delta=delta), google_epsilon(runs, delta)

    assert abs(found - expected) <= max(0.01 * expected, 0.02)
    assert found >= expected - 0.02


@pytest.mark.parametrize(("run", "delta"), QUICK)
def test_epsilon_agrees_with_googles_accountant(run: NoisySteps, delta: float) -> None:
    assert_agrees([run], delta)


@pytest.mark.slow
@pytest.mark.parametrize(("run", "delta"), GRID)
def test_epsilon_agrees_with_googles_accountant_on_a_grid(run: NoisySteps, delta: float) -> None:
    assert_agrees([run], delta)


@pytest.mark.slow
def test_several_runs_compose_to_less_than_their_sum() -> None:
    runs = [NoisySteps(1.0, 0.01, 500), NoisySteps(2.0, 0.1, 100), NoisySteps(0.8, 0.02, 50)]

    assert_agrees(runs, 1e-5)
    parts = [compose([run], delta=1e-5) for run in runs]
    assert max(parts) < compose(runs, delta=1e-5) < sum(parts)


def test_two_halves_are_the_whole() -> None:
    whole = compose([NoisySteps(1.0, 0.02, 400)], delta=1e-5)

    assert compose([NoisySteps(1.0, 0.02, 200)] * 2, delta=1e-5) == pytest.approx(whole, abs=0.01)


def test_the_noise_found_keeps_within_the_budget_and_spends_it() -> None:
    for budget, rate in ((0.5, 0.1), (8.0, 0.05)):
        noise = noise_multiplier(epsilon=budget, sample_rate=rate, num_steps=100, delta=1e-5)

        assert 0.99 * budget <= epsilon(noise_multiplier=noise, sample_rate=rate, num_steps=100, delta=1e-5) <= budget


def test_results_are_plain_floats_and_the_client_has_both() -> None:
    assert type(client.epsilon(noise_multiplier=2, sample_rate=0.1, num_steps=10, delta=1e-5)) is float
    assert type(client.noise_multiplier(epsilon=3, sample_rate=0.1, num_steps=10, delta=1e-5)) is float


def test_a_budget_that_nearly_no_noise_meets_gives_the_least_noise_there_is() -> None:
    noise = noise_multiplier(epsilon=100.0, sample_rate=1e-7, num_steps=1, delta=1e-3)

    assert 0 < noise < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_multiplier": 0}, "noise_multiplier=0, expected a number in"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan"),
        ({"noise_multiplier": True}, "noise_multiplier=True"),
        ({"noise_multiplier": "2"}, "noise_multiplier='2'"),
        ({"sample_rate": 0.0}, r"sample_rate=0.0, expected a number in \(0, 1\]"),
        ({"sample_rate": 1.1}, "sample_rate=1.1"),
        ({"num_steps": 0}, "num_steps=0, expected a whole number"),
        ({"num_steps": 2.0}, "num_steps=2.0"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"delta": 1e-12}, "delta=1e-12"),
        ({"num_steps": 10**11}, "cannot be computed closely enough|epsilon is above 500"),
        ({"noise_multiplier": 5e3, "num_steps": 10**11}, "cannot be computed closely enough"),
        ({"noise_multiplier": 0.05, "sample_rate": 1.0}, "epsilon is above 500"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"noise_multiplier": 1.0, "sample_rate": 0.1, "num_steps": 10, "delta": 1e-5}

    with pytest.raises(ConfigurationError, match=message):
        epsilon(**values | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0}, "epsilon=0"),
        ({"epsilon": math.inf}, "epsilon=inf"),
        ({"epsilon": 1000.0}, "epsilon=1000.0"),
        ({"delta": 0}, "delta=0"),
        ({"sample_rate": 2}, "sample_rate=2"),
        ({"num_steps": -1}, "num_steps=-1"),
        ({"epsilon": 0.001}, "epsilon=0.001"),
        pytest.param({"epsilon": 0.01, "num_steps": 10_000}, "no noise keeps", marks=pytest.mark.slow),
    ],
)
def test_budgets_that_cannot_be_met_are_refused(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"epsilon": 1.0, "sample_rate": 1.0, "num_steps": 10, "delta": 1e-5}

    with pytest.raises(ConfigurationError, match=message):
        noise_multiplier(**values | change)


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r"gradtx-hf\[dp\]"):
        epsilon(noise_multiplier=1.234, sample_rate=0.5, num_steps=7, delta=1e-5)


def test_no_runs_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no runs"):
        compose([], delta=1e-5)
