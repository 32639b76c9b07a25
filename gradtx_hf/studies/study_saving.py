"""Write a study's report as files: report.png and report.md for people, report.json last. Source: ours."""

from __future__ import annotations

import logging
from pathlib import Path

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.output import write_bytes, write_json, write_text
from gradtx_hf.studies.study_markdown import render_study
from gradtx_hf.studies.study_report import StudyReport


logger = logging.getLogger(__name__)


def save_study_report(report: StudyReport, folder: Path) -> list[Path]:
    """Write report.png, report.md and report.json into a study's folder, replacing those of an earlier run.

    Without matplotlib, or without any result, there is no report.png.

    Returns:
        The files written.
    """
    plot = _draw(report)
    written = []
    if plot is not None:
        write_bytes(folder / "report.png", plot)
        written.append(folder / "report.png")
    write_text(folder / "report.md", render_study(report, plot_file=None if plot is None else "report.png"))
    write_json(folder / "report.json", report.to_json())
    return [*written, folder / "report.md", folder / "report.json"]


def _draw(report: StudyReport) -> bytes | None:
    if report.main is None:
        return None
    try:
        from gradtx_hf.studies.curve_plot import render_curves_png  # here, as matplotlib is optional and slow to import
        from gradtx_hf.studies.study_plot import render_study_png
    except MissingExtraError as error:
        logger.warning("No report.png: %s", error)
        return None
    return render_curves_png(report) if report.study.methods_on_axis else render_study_png(report)
