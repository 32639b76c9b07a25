"""The table of a study of the paper: the paper's row, ours, and the controls. As JSON, Markdown and a plot. Ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TRANSLATED, method_of, ordered_methods
from gradtx_hf.evaluation.pgr import performance_gap_recovered
from gradtx_hf.evaluation.pooling import pool_reports
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.saving import write_report_files
from gradtx_hf.evaluation.seconds import read_seconds
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.paper.definition import PaperCell, PaperStudy


logger = logging.getLogger(__name__)

STAGES_FILE = "stages.json"
"""File of a finished cell: where the seconds of its shared stages are kept."""
WARNING = "**A dry run: tiny random models and made-up rows. No number here means anything.**"


@dataclass(frozen=True)
class CellReport:
    """One row of the table.

    Attributes:
        cell: The cell.
        report: Its evaluation, over all seeds that are done; None before one is.
        seconds: Stage to seconds, added up over seeds; of stages that cells share, those of this cell's.
    """

    cell: PaperCell
    report: Report | None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class PaperReport:
    """A study's table.

    Attributes:
        study: The study.
        cells: A row for each of its cells.
        is_dry_run: Whether the numbers mean nothing.
        failures: Cell to why it failed in the last run.
    """

    study: PaperStudy
    cells: tuple[CellReport, ...]
    is_dry_run: bool
    failures: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, study: PaperStudy, folder: Path, *, num_seeds: int, is_dry_run: bool, failures: Mapping[str, str]
    ) -> PaperReport:
        """Read what a study's folder holds."""
        rows = tuple(_read_cell(cell, folder, num_seeds) for cell in study.cells)
        return cls(study, rows, is_dry_run, failures)

    @property
    def missing(self) -> list[str]:
        """Names of the cells without a result."""
        return [row.cell.name for row in self.cells if row.report is None]

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "study": self.study.name,
            "where": self.study.where,
            "is_dry_run": self.is_dry_run,
            "cells": [
                {
                    "name": row.cell.name,
                    "label": row.cell.label,
                    "paper": dict(row.cell.paper),
                    "paper_pgr": _paper_pgr(row.cell),
                    "report": None if row.report is None else row.report.to_json(),
                    "seconds": dict(row.seconds),
                }
                for row in self.cells
            ],
            "failures": dict(self.failures),
        }


def cell_folder(folder: Path, name: str, seed: int) -> Path:
    """Return where a cell's evaluation lies."""
    return folder / "cells" / name / f"seed-{seed}"


def seconds_folder(folder: Path, stage_folder: Path) -> Path:
    """Return where the seconds of a shared stage are kept, made if it is not there."""
    found = folder / "seconds" / stage_folder.relative_to(folder)
    found.mkdir(parents=True, exist_ok=True)
    return found


def save_paper_report(report: PaperReport, folder: Path, *, command: str) -> None:
    """Write report.png, report.md and report.json; without matplotlib, or a result, there is no report.png."""
    write_report_files(
        folder,
        draw=lambda: _draw(report),
        render=lambda plot_file: render_paper_markdown(report, command=command, has_plot=plot_file is not None),
        values=report.to_json(),
    )


def _draw(report: PaperReport) -> bytes | None:
    if all(row.report is None for row in report.cells):
        return None
    from gradtx_hf.studies.paper.plot import render_paper_png  # here, as matplotlib is optional and slow to import

    return render_paper_png(report)


def render_paper_markdown(report: PaperReport, *, command: str = "", has_plot: bool = False) -> str:
    """Return the table as Markdown; scores in percent, as in the paper."""
    study = report.study
    found = [row.report for row in report.cells if row.report is not None]
    methods = ordered_methods(name for one in found for name in one.summary["all"].methods)
    papers = ordered_methods(name for row in report.cells for name in row.cell.paper)
    head = ["cell", *(f"paper: {method_of(name).short}" for name in papers), "paper: PGR"]
    head += [*(method_of(name).short for name in methods), "PGR", "gain recovered", "clients"]
    sections = [
        f"# {study.title} ({study.where})",
        WARNING if report.is_dry_run else "",
        study.question,
        "![The table as a picture](report.png)" if has_plot else "",
        markdown_table(head, [_row(row, papers, methods) for row in report.cells]),
        "Scores in percent of each task's own score, with 95 % bootstrap intervals over tasks and examples; PGR and "
        "gain recovered of their means. The columns of the paper are its numbers, the others ours.",
        study.note,
        markdown_table(["cell", "curation", "training", "clients and ceilings", "scoring"], _seconds(report)),
        "Seconds on the machine that it ran on; cells of the same shadow sets share their curation.",
        *(
            f"Cell `{row.cell.name}`, not run: {method_of(name).label}: {why}"
            for row in report.cells
            for name, why in (row.report.not_run if row.report else {}).items()
        ),
        *(f"Cell `{name}` failed: {why}" for name, why in report.failures.items()),
        f"Not run: {', '.join(report.missing)}." if report.missing else "",
        f"Written by `{command}`." if command else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _read_cell(cell: PaperCell, folder: Path, num_seeds: int) -> CellReport:
    homes = {seed: cell_folder(folder, cell.name, seed) for seed in range(num_seeds)}
    done = {seed: home for seed, home in homes.items() if (home / STAGES_FILE).is_file()}
    reports = [Report.load(home) for home in done.values()]
    seconds: dict[str, float] = {}
    for home in done.values():
        stages = json.loads((home / STAGES_FILE).read_text(encoding="utf-8"))["seconds"]
        for part in (home, *(folder / stage for stage in stages)):
            for name, value in read_seconds(part).items():
                seconds[name] = round(seconds.get(name, 0.0) + value, 1)
    if not reports:
        return CellReport(cell, None, seconds)
    pooled = reports[0] if len(reports) == 1 else pool_reports(reports, study_seeds=list(done))
    return CellReport(cell, pooled, seconds)


def _row(row: CellReport, papers: Sequence[str], methods: Sequence[str]) -> list[str]:
    pgr = _paper_pgr(row.cell)
    cells = [row.cell.label, *(_percent(row.cell.paper.get(name)) for name in papers), _percent(pgr)]
    if row.report is None:
        return [*cells, *("" for _ in methods), "", "", ""]
    group = row.report.summary["all"]
    for name in methods:
        summary = group.methods.get(name)
        cells.append("" if summary is None else _estimate(summary.score.mean, summary.score.low, summary.score.high))
    shares = (group.pgr.value, group.gain_recovered.value)
    return [*cells, *(_percent(None if share is None else 100 * share) for share in shares), str(group.num_clients)]


def _paper_pgr(cell: PaperCell) -> float | None:
    """Return the paper's PGR in percent, of its scores."""
    scores = [cell.paper.get(name) for name in (TRANSLATED, SOURCE_CLIENT, CEILING)]
    if None in scores:
        return None
    share = performance_gap_recovered(*scores).value  # type: ignore[arg-type]
    return None if share is None else round(100 * share, 2)


def _estimate(mean: float, low: float | None, high: float | None) -> str:
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * mean:.2f}{interval}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _seconds(report: PaperReport) -> list[list[str]]:
    stages = ("curation", "training", "fine_tuning", "scoring")
    return [
        [row.cell.label, *(f"{row.seconds[s]:.0f}" if s in row.seconds else "" for s in stages)] for row in report.cells
    ]
