"""The permutation test of paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from gradtx_hf.evaluation import ClientScores, Report, render_markdown
from gradtx_hf.evaluation.headline import headline
from gradtx_hf.evaluation.paired import MOST_EXACT_UNITS, sign_flip_p, sums_by_example


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),
        ([1.0, 2.0, -3.0], 1.0),
        ([3.0, 1.0, -1.0], 6 / 8),
        ([0.0, 0.0, 5.0, 4.0], 2 / 4),
        ([0.0, 0.0], 1.0),
    ],
)
def test_few_units_are_tried_with_all_signs(differences: list[float], p: float) -> None:
    assert sign_flip_p(np.array(differences), seed=0) == pytest.approx(p)


def test_random_signs_agree_with_all_signs_and_are_the_same_every_time() -> None:
    generator = np.random.default_rng(0)
    differences = generator.normal(0.25, 1, MOST_EXACT_UNITS)
    padded = np.concatenate([differences, np.full(2, 1e-13)])  # too many units for all signs

    found = sign_flip_p(padded, seed=0)

    assert found == pytest.approx(sign_flip_p(differences, seed=0), abs=0.02)
    assert found == sign_flip_p(padded, seed=0)
    assert sign_flip_p(np.ones(40), seed=0) == pytest.approx(1 / 10000)


def test_p_is_uniform_where_nothing_differs() -> None:
    generator = np.random.default_rng(1)
    values = np.array([sign_flip_p(generator.normal(0, 1, 9), seed=0) for _ in range(300)])

    assert 0.02 < (values <= 0.05).mean() < 0.09
    assert 0.43 < (values <= 0.5).mean() < 0.57


def test_examples_that_clients_share_are_one_unit() -> None:
    first, second = np.array([1.0, 0.0]), np.array([1.0, -1.0])

    assert sums_by_example([first, second], ["x", "x"]).tolist() == [1.0, -0.5]
    assert sums_by_example([first, second], ["x", "y"]).tolist() == [0.5, 0.0, 0.5, -0.5]


def test_signs_are_flipped_by_task_however_many_seeds_each_has() -> None:
    leads = (0.3, 0.1, 0.2, 0.4, 0.1)
    clients = [
        ClientScores(f"task {n}", True, {"translated": 0.5 + d, "ridge": 0.5}, seed=seed)
        for n, d in enumerate(leads)
        for seed in range(3)
    ]
    report = Report.from_clients(clients, metric="exact_match", higher_is_better=True, seconds={}, config={})

    assert report.summary["seen"].methods["ridge"].p_value == pytest.approx(2 / 2**5)
    assert Report.from_json(report.to_json()) == report
    assert ", p = 0.062." in headline(report, "seen")
    row = [line for line in render_markdown(report).splitlines() if line.startswith("| Ridge on update tokens | 0.220")]
    assert row[0].endswith("| 0.062 |")
