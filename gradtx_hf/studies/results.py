"""What cells and controls scored, read from a study's folder. Source: ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradtx_hf.evaluation import ClientScores, Report, pool_reports
from gradtx_hf.studies.cells import Cell, Study
from gradtx_hf.studies.clients import merged, read_controls, read_scores
from gradtx_hf.studies.world import Place


@dataclass(frozen=True)
class CellResult:
    """What one cell scored with one seed.

    Attributes:
        seed: The study seed.
        clients: Every client's scores: the cell's own, ``translated`` and ``shuffled_input``, and the controls'.
        controls: The same clients' scores by the controls alone.
        num_target_runs: Target runs that the controls rest on.
        values: The contents of ``result.json``.
    """

    seed: int
    clients: tuple[ClientScores, ...]
    controls: tuple[ClientScores, ...]
    num_target_runs: int
    values: Mapping[str, Any]


def read_result(study: Study, cell: Cell, place: Place) -> CellResult | None:
    """Return a cell's result; None if there is none of these settings."""
    path = place.result(cell)
    controls = read_controls(place.clients(study, cell), place.ceilings(study, cell))
    if not path.is_file() or controls is None:
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values["settings"] != json.loads(json.dumps(study.settings_of(cell))):
        return None
    known, num_target_runs = controls
    own = read_scores(values["clients"])
    return CellResult(
        seed=place.seed,
        clients=tuple(merged(control, scores) for control, scores in zip(known, own, strict=True)),
        controls=tuple(known),
        num_target_runs=num_target_runs,
        values=values,
    )


def pooled(clients: Mapping[int, Sequence[ClientScores]], *, config: Mapping[str, Any]) -> Report:
    """Return the report of clients by study seed; see ``pool_reports`` for its intervals.

    Args:
        clients: Study seed to its clients; at least one.
        config: The configuration of all.
    """
    reports = [
        Report.from_clients(found, metric="exact_match", higher_is_better=True, seconds={}, config=config)
        for found in clients.values()
    ]
    return pool_reports(reports, study_seeds=list(clients))
