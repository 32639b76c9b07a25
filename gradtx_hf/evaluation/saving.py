"""Write a report as files: report.png and report.md for people, report.json last, so that its existence means done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.evaluation.markdown import render_markdown
from gradtx_hf.evaluation.report import Report
from gradtx_hf.output import write_bytes, write_json, write_text


logger = logging.getLogger(__name__)

PLOT_FILE = "report.png"


def save_report(report: Report, output_dir: Path | str) -> list[Path]:
    """Write report.png, report.md and report.json into a folder, replacing those of an earlier report.

    Without matplotlib there is no report.png, and a warning names the extra that brings it.

    Args:
        report: What to write.
        output_dir: The folder; made if it is not there.

    Returns:
        The files written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return write_report_files(
        folder,
        draw=lambda: draw_report(report),
        render=lambda plot_file: render_markdown(report, plot_file=plot_file),
        values=report.to_json(),
    )


def write_report_files(
    folder: Path,
    *,
    draw: Callable[[], bytes | None],
    render: Callable[[str | None], str],
    values: Mapping[str, Any],
) -> list[Path]:
    """Write the three files of any report.

    Args:
        folder: The folder, which is there.
        draw: Returns the plot, or None where there is nothing to draw; it imports matplotlib, which may be missing.
        render: Returns the text of report.md, given the plot's file or None.
        values: The contents of report.json.

    Returns:
        The files written.
    """
    try:
        plot = draw()
    except MissingExtraError as error:
        logger.warning("No %s: %s", PLOT_FILE, error)
        plot = None
    written = []
    if plot is not None:
        write_bytes(folder / PLOT_FILE, plot)
        written.append(folder / PLOT_FILE)
    write_text(folder / "report.md", render(None if plot is None else PLOT_FILE))
    write_json(folder / "report.json", values)
    return [*written, folder / "report.md", folder / "report.json"]


def draw_report(report: Report) -> bytes:
    """Return the plot of an evaluation's report.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    from gradtx_hf.evaluation.plot import render_png  # here, as matplotlib is optional and slow to import

    return render_png(report)
