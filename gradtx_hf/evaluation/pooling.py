"""Several evaluations of one study, one per study seed, as one report.

A study seed draws other splits of the tasks, other data and another translator. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation.report import Report


BY_STUDY_SEED = "by_study_seed"
"""Key of a pooled report's configuration: study seed to the values that are not the same in all its reports."""


def pool_reports(reports: Sequence[Report], *, study_seeds: Sequence[int], command: str = "") -> Report:
    """Put the clients of several evaluations into one report, each with the study seed of its evaluation.

    Intervals come from a bootstrap over (study seed, task) pairs as independent clusters: a pair is resampled with all
    its clients. Study seeds are not resampled, as a few of them (three, say) cannot show how translators vary. So the
    interval leaves out that all tasks of a seed share one translator, and that a task is as hard in one seed as in
    another: it is the narrower for both, and the means by seed are shown beside it.

    Args:
        reports: One report per study seed, of one metric.
        study_seeds: Their seeds, all different, in the same order.
        command: The command line that makes the pooled report.

    Returns:
        A report whose seconds are the sums over all reports, and whose configuration holds what is the same in all
        of them, ``study_seeds``, and by study seed what is not.

    Raises:
        DataError: If there is no report, seeds are missing or double, metrics differ, or a report is pooled already.
    """
    if not reports or len(reports) != len(study_seeds) or len(set(study_seeds)) != len(study_seeds):
        raise DataError(
            f"got {len(reports)} reports to pool with study seeds {list(study_seeds)}, expected at least one report, "
            "each with a seed of its own."
        )
    first = reports[0]
    for report in reports:
        if report.metric != first.metric or report.higher_is_better != first.higher_is_better:
            raise DataError(
                f"got reports of {report.metric} and {first.metric} to pool, expected one metric. Pool them apart."
            )
        if any(client.study_seed is not None for client in report.clients):
            raise DataError("got a report that is pooled already. Pool the reports that it was made of.")
    by_seed = zip(study_seeds, reports, strict=True)
    pooled = Report.from_clients(
        [replace(client, study_seed=seed) for seed, report in by_seed for client in report.clients],
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        seconds=_sums([report.seconds for report in reports]),
        config=_pooled_config([report.config for report in reports], study_seeds),
        command=command,
        not_run=_not_run(reports),
    )
    return replace(pooled, versions=_pooled_versions([report.versions for report in reports]))


def join_reports(reports: Sequence[Report]) -> Report:
    """Put the clients of several evaluations into one report, in which tasks are resampled whatever the seed.

    For seeds that share the translator and the held-out rows, which are no repetitions of a task's result.

    Args:
        reports: The reports, at least one, all of one metric.
    """
    first = reports[0]
    return Report.from_clients(
        [client for report in reports for client in report.clients],
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        seconds=_sums([report.seconds for report in reports]),
        config={**_shared_config([report.config for report in reports]), "seeds": len(reports)},
        not_run=_not_run(reports),
    )


def _not_run(reports: Sequence[Report]) -> dict[str, str]:
    """Return why methods were not run, by the first report that says so."""
    return {name: why for report in reversed(reports) for name, why in report.not_run.items()}


def _shared_config(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in configs[0].items() if all(key in c and c[key] == value for c in configs)}


def _sums(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    phases = dict.fromkeys(phase for times in seconds for phase in times)
    return {phase: sum(times.get(phase, 0.0) for times in seconds) for phase in phases}


def _pooled_config(configs: Sequence[Mapping[str, Any]], study_seeds: Sequence[int]) -> dict[str, Any]:
    shared = _shared_config(configs)
    differing = {
        str(seed): {key: value for key, value in config.items() if key not in shared}
        for seed, config in zip(study_seeds, configs, strict=True)
    }
    return {"study_seeds": list(study_seeds), **shared, BY_STUDY_SEED: differing}


def _pooled_versions(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return every library's version; several where the reports were made with several."""
    libraries = dict.fromkeys(library for found in versions for library in found)
    return {
        library: ", ".join(dict.fromkeys(found[library] for found in versions if library in found))
        for library in libraries
    }
