"""Reports of several study seeds as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation import ClientScores, Report, pool_reports, render_markdown, save_report
from gradtx_hf.evaluation.markdown import seed_table
from tests.evaluation.reports import bits_report, rules_report


def report_of(values: dict[str, list[float]], **config: object) -> Report:
    """Return a report of some tasks with the scores of their clients."""
    return Report.from_clients(
        [
            ClientScores(task, task != "new", {"translated": score, "target_untouched": 0.0, "ceiling": 1.0})
            for task, scores in values.items()
            for score in scores
        ],
        metric="exact_match",
        higher_is_better=True,
        seconds={"scoring": 2.0},
        config=config,
    )


def test_every_client_keeps_its_scores_and_gets_its_study_seed() -> None:
    first, second = report_of({"a": [0.1, 0.2]}), report_of({"a": [0.4], "new": [0.6]})

    pooled = pool_reports([first, second], study_seeds=[0, 7], command="gradtx study functional")

    assert [client.study_seed for client in pooled.clients] == [0, 0, 7, 7]
    assert [replace(client, study_seed=None) for client in pooled.clients] == [*first.clients, *second.clients]
    assert pooled.summary["all"].methods["translated"].score.mean == pytest.approx(1.3 / 4)
    assert pooled.seconds == {"scoring": 4.0}
    assert pooled.command == "gradtx study functional"
    assert [client["study_seed"] for client in pooled.to_json()["clients"]] == [0, 0, 7, 7]
    assert "study_seed" not in first.to_json()["clients"][0]


def test_a_task_of_two_study_seeds_is_two_clusters() -> None:
    pooled = pool_reports([report_of({"a": [0.0, 0.0]}), report_of({"a": [1.0, 1.0]})], study_seeds=[0, 1])

    group = pooled.summary["all"]

    # draws of two clusters: both of seed 0, one of each, both of seed 1
    score = group.methods["translated"].score
    assert (group.num_tasks, group.num_clients) == (2, 4)
    assert (score.mean, score.low, score.high) == (0.5, 0.0, 1.0)


def test_intervals_are_those_of_as_many_different_tasks() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(3, 4)).tolist()
    pooled = pool_reports(
        [report_of({f"task {n}": [score] for n, score in enumerate(scores)}) for scores in values],
        study_seeds=[0, 1, 2],
    )
    apart = report_of({f"task {n}, seed {s}": [v] for s, scores in enumerate(values) for n, v in enumerate(scores)})

    assert pooled.summary == apart.summary


def test_configuration_keeps_what_is_shared_and_what_is_not_by_seed() -> None:
    reports = [report_of({"a": [0.5]}, metric="exact_match", store=f"store {s}", num_target_runs=8) for s in (0, 1)]
    reports[1] = replace(reports[1], versions={"torch": "1"})

    pooled = pool_reports(reports, study_seeds=[3, 4])

    assert pooled.config == {
        "study_seeds": [3, 4],
        "metric": "exact_match",
        "num_target_runs": 8,
        "by_study_seed": {"3": {"store": "store 0"}, "4": {"store": "store 1"}},
    }
    assert pooled.versions["torch"] == f"{reports[0].versions['torch']}, 1"


def test_markdown_has_a_table_of_methods_and_study_seeds() -> None:
    pooled = pool_reports(
        [report_of({"a": [0.1], "b": [0.3], "new": [0.5]}), report_of({"a": [0.7], "new": [0.9]})], study_seeds=[0, 1]
    )

    text = render_markdown(pooled)

    head = (
        "| method | Seen tasks (2 clients), study seed 0 | Seen tasks (1 client), study seed 1 | "
        "Unseen tasks (1 client), study seed 0 | Unseen tasks (1 client), study seed 1 |"
    )
    assert head in seed_table(pooled)
    assert "| **Translated adapter** | 0.200 | 0.700 | 0.500 | 0.900 |" in seed_table(pooled)
    assert text.index("bootstrap intervals over pairs of study seed and task") < text.index(head)
    assert "(5 pairs of 2 study seeds, 5 clients)" in text
    assert "| client | task | seen | study seed |" in text
    assert "study seed" not in render_markdown(report_of({"a": [0.1], "b": [0.2]}))


@pytest.mark.parametrize("make", [rules_report, bits_report])
def test_a_pooled_report_is_written_and_read_back(make: type[Report], tmp_path: Path) -> None:
    pooled = pool_reports([make(), make(), make()], study_seeds=[0, 1, 2])

    files = save_report(pooled, tmp_path)

    assert [file.name for file in files] == ["report.png", "report.md", "report.json"]
    assert Report.load(tmp_path) == pooled
    assert render_markdown(Report.load(tmp_path)) == render_markdown(pooled)


def test_what_cannot_be_pooled_is_refused() -> None:
    report = report_of({"a": [0.5]})

    for reports, seeds in (([], []), ([report], [0, 1]), ([report, report], [0, 0])):
        with pytest.raises(DataError, match="expected at least one report, each with a seed of its own"):
            pool_reports(reports, study_seeds=seeds)
    with pytest.raises(DataError, match="expected one metric"):
        pool_reports([rules_report(), bits_report()], study_seeds=[0, 1])
    with pytest.raises(DataError, match="pooled already"):
        pool_reports([pool_reports([report], study_seeds=[0])], study_seeds=[1])
