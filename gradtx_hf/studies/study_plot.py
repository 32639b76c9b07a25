"""A study as a picture: gain recovered, one panel for seen and one for unseen rules.

Cells with a place on an axis are lines by series; others are bars. Dashed lines are the ceiling (1), the source client
and the nearest shadow, of the main cell's clients; a bar whose cell has clients or models of its own has a mark of its
own for each of the last two. Needs matplotlib; leaves its global state alone. Source: ours.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.evaluation import Recovered
from gradtx_hf.evaluation.headline import group_title
from gradtx_hf.evaluation.methods import SOURCE_CLIENT, method_of
from gradtx_hf.studies.study_report import GROUPS, CellReport, StudyReport


try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.studies.study_plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


WIDTH_INCHES = 9.0
LINES_HEIGHT_INCHES = 4.0
DOTS_PER_INCH = 200
FONT_POINTS = 9.5
LABEL_CHARACTERS = 30
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which colour-blind readers tell apart."""
MARKERS = "os^Dv*"
REFERENCE_MARKS = {SOURCE_CLIENT: "o", "nearest_shadow": "D"}
REFERENCE_LINES = {SOURCE_CLIENT: (0, (1, 2)), "nearest_shadow": (0, (4, 3))}


def render_study_png(report: StudyReport) -> bytes:
    """Draw a study's report as a PNG of 1,800 pixels' width, made to be shown at 900.

    Args:
        report: The report; at least one cell has a result.
    """
    main = report.main
    groups = [group for group in GROUPS if main is not None and group in main.summary]
    has_axis = bool(report.study.x_axis)
    height = LINES_HEIGHT_INCHES if has_axis else 1.6 + 0.42 * len(report.cells)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        if has_axis:
            _draw_lines(axes, report, group)
        else:
            _draw_bars(axes, report.cells, group)
        has_marks = not has_axis and _has_own_references(report)
        if has_marks:
            _mark_references(axes, report.cells, group)
        _draw_references(axes, None if has_marks else main, group, is_vertical=not has_axis)
        title = "" if main is None else group_title(group, num_clients=main.summary[group].num_clients)
        axes.set_title(title, fontsize=FONT_POINTS + 1)
        axes.tick_params(labelsize=FONT_POINTS)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        (axes.yaxis if has_axis else axes.xaxis).grid(visible=True, color="#E4E4E4", linewidth=0.7)
    low, high = _gain_range(report)
    said = "gain recovered (1: the ceiling)"
    if has_axis:
        panels[0].set_ylim(low, high)
        figure.supylabel(said, fontsize=FONT_POINTS)
        figure.supxlabel(report.study.x_axis, fontsize=FONT_POINTS)
    else:
        panels[0].set_xlim(low, high + 0.12 * (high - low))  # room for the numbers at the bars
        figure.supxlabel(said, fontsize=FONT_POINTS)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=FONT_POINTS - 1, frameon=False, loc="outside upper center", ncols=3)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_lines(axes: Axes, report: StudyReport, group: str) -> None:
    places = list(dict.fromkeys(cell.cell.x for cell in report.cells))
    series = list(dict.fromkeys(cell.cell.series for cell in report.cells))
    for number, name in enumerate(series):
        points = [
            (places.index(cell.cell.x), share)
            for cell in report.cells
            if cell.cell.series == name and (share := _gain(cell, group)) is not None
        ]
        colour = COLOURS[number % len(COLOURS)]
        shift = 0.06 * (number - (len(series) - 1) / 2)  # so that intervals of several lines stay apart
        xs = [place + shift for place, _ in points]
        ys = [_value(share) for _, share in points]
        axes.errorbar(
            xs,
            ys,
            yerr=_errors([share for _, share in points]),
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.6,
            capsize=2.5,
            label=name or None,
        )
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.3, len(places) - 0.7)


def _draw_bars(axes: Axes, cells: Sequence[CellReport], group: str) -> None:
    for place, cell in enumerate(cells):
        share = _gain(cell, group)
        if share is None:
            said = "no gain to recover" if cell.results else cell.status
            axes.annotate(said, (0, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
            continue
        value = _value(share)
        axes.barh(
            place,
            value,
            xerr=_errors([share]),
            height=0.66,
            color=COLOURS[0],
            edgecolor="#333333",
            linewidth=0.8,
            error_kw={"capsize": 2.5, "linewidth": 1, "ecolor": "#333333"},
        )
        axes.annotate(
            f"{value:.2f}",
            (max(value, 0.0 if share.high is None else share.high), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_POINTS,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},  # keeps lines off the number
        )
    axes.set_yticks(range(len(cells)), [textwrap.fill(cell.cell.label, LABEL_CHARACTERS) for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _has_own_references(report: StudyReport) -> bool:
    return len(report.pairs) > 1 or any(cell.cell.clients for cell in report.cells)


def _mark_references(axes: Axes, cells: Sequence[CellReport], group: str) -> None:
    """Mark on each bar what the cell's own source clients and nearest shadows recover."""
    for name, marker in REFERENCE_MARKS.items():
        found = [(place, cell.method(group, name)) for place, cell in enumerate(cells)]
        points = [
            (method.gain_recovered.value, place)
            for place, method in found
            if method is not None and method.gain_recovered.value is not None
        ]
        if points:
            xs, places = zip(*points, strict=True)
            axes.plot(
                xs,
                places,
                linestyle="none",
                marker=marker,
                markersize=6,
                markerfacecolor="white",
                markeredgecolor="#333333",
                zorder=3,
                label=method_of(name).short,
            )


def _draw_references(axes: Axes, main: CellReport | None, group: str, *, is_vertical: bool) -> None:
    draw = axes.axvline if is_vertical else axes.axhline
    draw(1.0, color="#333333", linewidth=0.9, zorder=0.5, label="ceiling")
    for name, style in REFERENCE_LINES.items():
        method = None if main is None else main.method(group, name)
        if method is not None and method.gain_recovered.value is not None:
            label = method_of(name).short
            draw(method.gain_recovered.value, color="#777777", linewidth=1, linestyle=style, zorder=0.5, label=label)


def _gain_range(report: StudyReport) -> tuple[float, float]:
    """Return the ends of the axis: 0, the ceiling and all intervals, with a little room."""
    ends = [0.0, 1.0]
    for cell in report.cells:
        for group in GROUPS:
            share = _gain(cell, group)
            if share is not None:
                ends += [end for end in (share.low, share.value, share.high) if end is not None]
    room = 0.03 * (max(ends) - min(ends))
    return min(ends) - (room if min(ends) < 0 else 0.0), max(ends) + room


def _gain(cell: CellReport, group: str) -> Recovered | None:
    """Return the gain that a cell recovers, if there is one to recover."""
    method = cell.method(group)
    return None if method is None or method.gain_recovered.value is None else method.gain_recovered


def _value(share: Recovered) -> float:
    return 0.0 if share.value is None else share.value


def _errors(shares: Sequence[Recovered]) -> list[list[float]]:
    """Return how far intervals reach below and above their values; 0 where there is none."""
    below = [max(0.0, _value(s) - s.low) if s.low is not None else 0.0 for s in shares]
    above = [max(0.0, s.high - _value(s)) if s.high is not None else 0.0 for s in shares]
    return [below, above]
