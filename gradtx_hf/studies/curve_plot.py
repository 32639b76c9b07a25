"""Draw a study whose controls change along the axis: exact match of cells and controls, with intervals over tasks.

A row of panels for each of the cells' panels, a column for each group of tasks. Needs matplotlib (the extra [eval]).
Source: ours; the curves over epsilon as in the paper's Figures 4 and 7.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.evaluation import MethodSummary
from gradtx_hf.evaluation.headline import group_title
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED, method_of
from gradtx_hf.studies.clients import SHUFFLED_INPUT
from gradtx_hf.studies.study_plot import (
    COLOURS,
    DOTS_PER_INCH,
    FONT_POINTS,
    LINES_HEIGHT_INCHES,
    MARKERS,
    WIDTH_INCHES,
)
from gradtx_hf.studies.study_report import GROUPS, CellReport, StudyReport


try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.studies.curve_plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


GREY = "#777777"
STYLES = {
    CEILING: ("#333333", "solid"),
    SOURCE_CLIENT: ("#000000", "dotted"),
    "nearest_shadow": (GREY, "dashed"),
    SHUFFLED_INPUT: (GREY, "dashdot"),
    TARGET_UNTOUCHED: ("#BBBBBB", "solid"),
}
"""Colour and line of a control."""


def render_curves_png(report: StudyReport) -> bytes:
    """Draw a study's cells and controls along its axis as a PNG of 1,800 pixels' width.

    Args:
        report: The report; at least one cell has a result.
    """
    groups = [group for group in GROUPS if any(group in cell.summary for cell in report.cells)]
    names = list(dict.fromkeys(cell.cell.panel for cell in report.cells if cell.results))
    height = 0.6 + len(names) * (LINES_HEIGHT_INCHES - 0.8)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(len(names), len(groups), sharex=True, sharey=True, squeeze=False)
    places = list(dict.fromkeys(cell.cell.x for cell in report.cells))
    for name, row in zip(names, panels, strict=True):
        cells = [cell for cell in report.cells if cell.cell.panel == name]
        for axes, group in zip(row, groups, strict=True):
            _draw_panel(axes, report, cells, group, places)
            numbers = [cell.summary[group].num_clients for cell in cells if group in cell.summary]
            title = group_title(group, num_clients=numbers[0]) if numbers else group
            axes.set_title(f"{name}: {title}" if name else title, fontsize=FONT_POINTS + 1)
            axes.tick_params(labelsize=FONT_POINTS)
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.grid(visible=True, color="#E4E4E4", linewidth=0.7)
            axes.set_axisbelow(True)
    panels[0][0].set_ylim(-0.03, 1.03)
    figure.supylabel("exact match", fontsize=FONT_POINTS)
    figure.supxlabel(report.study.x_axis, fontsize=FONT_POINTS)
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=FONT_POINTS - 1, frameon=False, loc="outside upper center", ncols=4)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_panel(
    axes: Axes, report: StudyReport, cells: Sequence[CellReport], group: str, places: Sequence[str]
) -> None:
    series = list(dict.fromkeys(cell.cell.series for cell in cells))
    for number, name in enumerate(series):
        own = [cell for cell in cells if cell.cell.series == name]
        points = _points(own, group, TRANSLATED, places)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        shift = 0.06 * (number - (len(series) - 1) / 2)  # so that intervals of several lines stay apart
        _draw_line(axes, points, name, colour=colour, marker=marker, style="solid", shift=shift)
    run = [name for name in series if any(cell.summary for cell in cells if cell.cell.series == name)]
    last = [cell for cell in cells if cell.cell.series == (run or series)[-1]]
    for name in report.study.methods_on_axis:
        colour, style = STYLES[name]
        _draw_line(
            axes, _points(last, group, name, places), method_of(name).short, colour=colour, marker="", style=style
        )
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.3, len(places) - 0.7)


def _points(
    cells: Sequence[CellReport], group: str, name: str, places: Sequence[str]
) -> list[tuple[int, MethodSummary]]:
    found = [(places.index(cell.cell.x), cell.method(group, name)) for cell in cells]
    return [(place, method) for place, method in found if method is not None]


def _draw_line(
    axes: Axes,
    points: Sequence[tuple[int, MethodSummary]],
    label: str,
    *,
    colour: str,
    marker: str,
    style: str,
    shift: float = 0.0,
) -> None:
    if not points:
        return
    scores = [method.score for _, method in points]
    axes.errorbar(
        [place + shift for place, _ in points],
        [score.mean for score in scores],
        yerr=[
            [0.0 if score.low is None else score.mean - score.low for score in scores],
            [0.0 if score.high is None else score.high - score.mean for score in scores],
        ],
        color=colour,
        marker=marker,
        markersize=5,
        linestyle=style,
        linewidth=1.6 if marker else 1.1,
        elinewidth=1.1 if marker else 0.6,
        capsize=2.5 if marker else 1.5,
        label=label,
    )
