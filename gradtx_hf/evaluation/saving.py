"""Write a report as files: report.md and report.png for people, report.json last, so that its existence means done."""

from __future__ import annotations

import logging
from pathlib import Path

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.evaluation.markdown import render_markdown
from gradtx_hf.evaluation.report import Report
from gradtx_hf.output import write_bytes, write_json, write_text


logger = logging.getLogger(__name__)


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
    plot = _draw(report)
    written = []
    if plot is not None:
        write_bytes(folder / "report.png", plot)
        written.append(folder / "report.png")
    text = render_markdown(report, plot_file="report.png" if plot else None)
    write_text(folder / "report.md", text)
    write_json(folder / "report.json", report.to_json())
    return [*written, folder / "report.md", folder / "report.json"]


def _draw(report: Report) -> bytes | None:
    """Return the plot, or None where matplotlib is not installed."""
    try:
        from gradtx_hf.evaluation.plot import render_png  # here, as matplotlib is optional and slow to import
    except MissingExtraError as error:
        logger.warning("No report.png: %s", error)
        return None
    return render_png(report)
