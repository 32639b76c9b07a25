"""Write a study's report as files: report.png and report.md for people, report.json last. Source: ours."""

from __future__ import annotations

from pathlib import Path

from gradtx_hf.evaluation.saving import write_report_files
from gradtx_hf.studies.study_markdown import render_study
from gradtx_hf.studies.study_report import StudyReport


def save_study_report(report: StudyReport, folder: Path) -> list[Path]:
    """Write report.png, report.md and report.json into a study's folder, replacing those of an earlier run.

    Without matplotlib, or without any result, there is no report.png.

    Returns:
        The files written.
    """
    return write_report_files(
        folder,
        draw=lambda: _draw(report),
        render=lambda plot_file: render_study(report, plot_file=plot_file),
        values=report.to_json(),
    )


def _draw(report: StudyReport) -> bytes | None:
    if report.main is None:
        return None
    from gradtx_hf.studies.curve_plot import render_curves_png  # here, as matplotlib is optional and slow to import
    from gradtx_hf.studies.study_plot import render_study_png

    return render_curves_png(report) if report.study.methods_on_axis else render_study_png(report)
