"""A study of the paper as a picture: bars of our scores by cell, marks of the paper's. Ours."""

from __future__ import annotations

import io
import textwrap

from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TRANSLATED, method_of
from gradtx_hf.evaluation.plot import COLOURS, DOTS_PER_INCH, FONT_POINTS, LABEL_CHARACTERS, WIDTH_INCHES
from gradtx_hf.studies.paper.report import PaperReport


try:
    from matplotlib.figure import Figure
except ImportError as error:
    from gradtx_hf.errors import MissingExtraError

    raise MissingExtraError('the plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"') from error


METHODS = (SOURCE_CLIENT, "public_finetune", TRANSLATED, CEILING)
BAR = 0.8 / len(METHODS)


def render_paper_png(report: PaperReport) -> bytes:
    """Draw the table as a PNG of 1,800 pixels' width, made to be shown at 900.

    Args:
        report: The report; a group of bars for each cell that has a result, or a number of the paper.
    """
    rows = [row for row in report.cells if row.report is not None or row.cell.paper]
    figure = Figure(figsize=(WIDTH_INCHES, 1.4 + 0.62 * len(rows)), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(METHODS):
        places = [i + (k - (len(METHODS) - 1) / 2) * BAR for i in range(len(rows))]
        ours = [
            0.0
            if row.report is None or name not in row.report.summary["all"].methods
            else 100 * row.report.summary["all"].methods[name].score.mean
            for row in rows
        ]
        kind = method_of(name).kind
        axes.barh(
            places, ours, BAR, color=COLOURS[kind], edgecolor="#444444", linewidth=0.6, label=method_of(name).short
        )
        paper = [
            (place, row.cell.paper[name]) for place, row in zip(places, rows, strict=True) if name in row.cell.paper
        ]
        axes.plot([x for _, x in paper], [y for y, _ in paper], "|", color="#000000", markersize=9, markeredgewidth=1.6)
    axes.plot([], [], "|", color="#000000", markersize=9, markeredgewidth=1.6, label="the paper's")
    axes.set_yticks(range(len(rows)), [textwrap.fill(row.cell.label, LABEL_CHARACTERS) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("score in percent", fontsize=FONT_POINTS)
    axes.tick_params(labelsize=FONT_POINTS)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(METHODS) + 1, fontsize=FONT_POINTS, frameon=False)
    title = f"{report.study.title} ({report.study.where})" + (", dry run" if report.is_dry_run else "")
    figure.suptitle(title, fontsize=FONT_POINTS + 1, fontweight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
