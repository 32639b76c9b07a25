"""Scores of single examples as text, and what they add to intervals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation import ClientScores, Report, render_markdown, save_report, summarise
from gradtx_hf.evaluation.examples import decode_examples, encode_examples
from gradtx_hf.evaluation.headline import headline
from gradtx_hf.evaluation.summary import Estimate, GroupSummary


def client_of(
    task: str, test_set: str | None = None, *, seed: int | None = None, **scores: np.ndarray | list[float]
) -> ClientScores:
    """Return a client with the scores of its examples by method."""
    return ClientScores(
        task,
        True,
        {name: float(np.mean(values)) for name, values in scores.items()},
        seed=seed,
        example_scores={name: encode_examples(list(values)) for name, values in scores.items()},
        test_set=test_set,
    )


def coins(generator: np.random.Generator, chance: float, num_examples: int) -> np.ndarray:
    return (generator.random(num_examples) < chance).astype(float)


def seen(clients: list[ClientScores]) -> GroupSummary:
    return summarise(clients, higher_is_better=True)["seen"]


def lead(group: GroupSummary, name: str) -> Estimate:
    found = group.methods[name].lead_of_translated
    assert found is not None
    return found


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([1.0, 0.0, 1.0], "101"),
        ([1.0], "1"),
        ([0.5, 1 / 3, 1.0, 0.0], ".5,.333,1,0"),
        ([0.25], ".25"),
        ([1e-3, 0.99996, 1e-4], ".001,1,0"),
    ],
)
def test_scores_are_short_texts_and_read_back(scores: list[float], text: str) -> None:
    assert encode_examples(scores) == text
    assert decode_examples(text) == pytest.approx(scores, abs=5e-4)


def test_texts_that_are_no_scores_are_refused() -> None:
    with pytest.raises(DataError, match="no numbers"):
        decode_examples("0.5,half")
    for make in (lambda: encode_examples([]), lambda: decode_examples("")):
        with pytest.raises(DataError, match="expected at least one"):
            make()


def test_one_client_has_an_interval_over_its_examples() -> None:
    scores = coins(np.random.default_rng(0), 0.7, 400)

    score = seen([client_of("a", translated=scores)]).methods["translated"].score

    error = np.sqrt(score.mean * (1 - score.mean) / 400)  # of a binomial share
    assert score.low == pytest.approx(score.mean - 1.96 * error, abs=0.15 * error)
    assert score.high == pytest.approx(score.mean + 1.96 * error, abs=0.15 * error)


def test_methods_are_paired_by_example() -> None:
    base = coins(np.random.default_rng(1), 0.5, 300)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:9]] = 1

    group = seen([client_of("a", translated=better, ridge=base)])

    assert lead(group, "ridge").mean == pytest.approx(9 / 300)
    assert width(lead(group, "ridge")) < 0.5 * width(group.methods["ridge"].score)
    assert group.methods["ridge"].p_value == pytest.approx(2 / 2**9)  # McNemar's exact test: nine to nothing
    assert group.methods["translated"].p_value is None


def test_seeds_scored_on_the_same_examples_share_their_draws() -> None:
    generator = np.random.default_rng(2)
    scores = coins(generator, 0.5, 200)
    same = [client_of("a", "test", seed=seed, translated=scores, ridge=1 - scores) for seed in range(4)]
    others = [client_of("a", seed=seed, translated=generator.permutation(scores)) for seed in range(4)]

    one, together, apart = seen(same[:1]), seen(same), seen(others)

    # four copies of one list of answers say no more than one; four lists say twice as much
    score = together.methods["translated"].score
    assert width(score) == pytest.approx(width(one.methods["translated"].score), rel=0.1)
    assert width(apart.methods["translated"].score) == pytest.approx(width(score) / 2, rel=0.1)
    assert together.methods["ridge"].p_value == pytest.approx(one.methods["ridge"].p_value, abs=0.03)


def test_seeds_of_one_task_are_resampled_where_they_differ() -> None:
    clients = [client_of("a", seed=n, translated=[float(n)] * 50) for n in range(2)]

    score = seen(clients).methods["translated"].score

    assert (score.mean, score.low, score.high) == (0.5, 0.0, 1.0)


def test_intervals_over_tasks_are_wider_with_the_chance_of_few_examples() -> None:
    generator = np.random.default_rng(3)
    clients = [client_of(f"task {n}", translated=coins(generator, 0.6, 12)) for n in range(8)]
    constant = [client_of(f"task {n}", translated=[n % 2] * 12) for n in range(8)]

    def widths(found: list[ClientScores]) -> tuple[float, float]:
        without = [replace(client, example_scores={}) for client in found]
        return width(seen(found).methods["translated"].score), width(seen(without).methods["translated"].score)

    both, tasks_alone = widths(clients)
    assert both > 1.15 * tasks_alone
    both, tasks_alone = widths(constant)  # nothing varies within these tasks
    assert both == pytest.approx(tasks_alone)


@pytest.mark.parametrize(("num_tasks", "spread"), [(4, 0.0), (8, 0.1)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(num_tasks: int, spread: float) -> None:
    generator = np.random.default_rng(num_tasks)
    num_held = 0
    for _ in range(60):
        chances = np.clip(generator.normal(0.5, spread, num_tasks), 0, 1)
        clients = [client_of(f"task {n}", translated=coins(generator, c, 64)) for n, c in enumerate(chances)]
        score = seen(clients).methods["translated"].score
        assert score.low is not None
        assert score.high is not None
        num_held += score.low <= 0.5 <= score.high
    assert num_held >= 53  # 95 % of 60 is 57


def test_a_method_without_example_scores_keeps_its_interval_over_tasks() -> None:
    clients = [client_of(f"task {n}", translated=[1.0, 0.0, 1.0]) for n in range(3)]
    clients = [replace(client, scores={**client.scores, "w2s": n / 10}) for n, client in enumerate(clients)]
    without = [replace(client, example_scores={}) for client in clients]

    assert seen(clients).methods["w2s"] == seen(without).methods["w2s"]


def test_a_report_keeps_them_and_says_what_its_intervals_are_over(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    low, high = coins(generator, 0.3, 90), coins(generator, 0.8, 90)
    report = Report.from_clients(
        [client_of("a", "test", translated=high, ridge=low)],
        metric="exact_match",
        higher_is_better=True,
        seconds={},
        config={},
    )

    save_report(report, tmp_path)

    assert Report.load(tmp_path) == report
    client = report.to_json()["clients"][0]
    assert len(client["example_scores"]["ridge"]) == 90
    assert client["test_set"] == "test"
    assert headline(report, "seen").endswith(", p < 0.001; one task, so over its examples alone.")
    text = render_markdown(report)
    assert "bootstrap intervals over tasks (1 task, 1 client) and the examples of each client." in text
    table = text.split("## The translated adapter against each method")[1]
    assert "| Ridge on update tokens | 0." in table
    assert "| < 0.001 |" in table
    assert "Translated adapter**" not in table.split("##")[0]
