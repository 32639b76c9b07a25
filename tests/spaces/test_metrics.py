"""The metric modules of spaces/: loadable by evaluate from a path, and equal to the package's own definition."""

from __future__ import annotations

import random
from pathlib import Path

import evaluate
import pytest

from gradtx_hf.evaluation.pgr import Recovered, gain_recovered, performance_gap_recovered


SPACES = Path(__file__).parents[2] / "spaces"
LOWER_END = {"pgr": "source_client", "gain_recovered": "target_untouched"}
DEFINITION = {"pgr": performance_gap_recovered, "gain_recovered": gain_recovered}


@pytest.fixture(scope="module", params=sorted(LOWER_END))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def metric(name: str) -> evaluate.EvaluationModule:
    return evaluate.load(str(SPACES / name / f"{name}.py"))


def compute(metric: evaluate.EvaluationModule, name: str, scores: list[float], **options: bool) -> Recovered:
    reached, lower, upper = scores
    found = metric.compute(translated=[reached], **{LOWER_END[name]: [lower]}, ceiling=[upper], **options)
    return Recovered(found[name], found["reason"])


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_module_is_the_packages_definition(
    metric: evaluate.EvaluationModule, name: str, *, higher_is_better: bool
) -> None:
    rng = random.Random(0)
    for _ in range(20):
        scores = [rng.uniform(-1, 3) for _ in range(3)]
        found = compute(metric, name, scores, higher_is_better=higher_is_better)
        wanted = DEFINITION[name](*scores, higher_is_better=higher_is_better)
        assert found.value == wanted.value
        assert (found.reason is None) == (wanted.reason is None)


def test_means_are_compared(metric: evaluate.EvaluationModule, name: str) -> None:
    found = metric.compute(translated=[0.6, 0.8], **{LOWER_END[name]: [0.4, 0.6]}, ceiling=[1.0, 0.8])
    assert found == {name: pytest.approx(0.5), "reason": None}


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([0.5, 0.9, 0.9], "the ceiling (0.9) is not better than"),
        ([0.5, 0.95, 0.9], "the ceiling (0.9) is not better than"),
        ([float("nan"), 0.5, 0.9], "a score of translated is not finite"),
        ([0.5, 0.1, float("inf")], "a score of ceiling is not finite"),
    ],
)
def test_without_a_gap_there_is_a_reason(
    metric: evaluate.EvaluationModule, name: str, scores: list[float], reason: str
) -> None:
    found = compute(metric, name, scores)
    assert found.value is None
    assert found.reason is not None
    assert found.reason.startswith(reason)


def test_the_example_of_the_card_is_true(metric: evaluate.EvaluationModule, name: str) -> None:
    assert compute(metric, name, [0.7, 0.5, 0.9]).value == pytest.approx(0.5)
    assert f'evaluate.load("{name}")' in (SPACES / name / "README.md").read_text()
