"""Study ``shift`` as a picture: every client's gain recovered over its texts' shift, and over its input distance.

Small marks are clients, lines join the means of a series' conditions. Needs matplotlib; leaves its global state alone.
Source: ours.
"""

from __future__ import annotations

import io

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.studies.shift_results import ShiftPoint, ShiftStudyReport, of_series


try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.studies.shift_plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


WIDTH_INCHES, HEIGHT_INCHES = 9.0, 4.2
DOTS_PER_INCH = 200
FONT_POINTS = 9.5
STYLES = {"rule": ("#D55E00", "o"), "letters, seen rule": ("#0072B2", "s"), "letters, unseen rule": ("#009E73", "^")}
"""Okabe and Ito's palette, which colour-blind readers tell apart."""
PANELS = {
    "auc": "shift of the texts: AUC (0.5: none)",
    "input_distance": "input distance of the adapter (1: like the shadow sets')",
}


def render_shift_png(report: ShiftStudyReport) -> bytes:
    """Draw the report as a PNG of 1,800 pixels' width, made to be shown at 900."""
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (measure, label) in zip(panels, PANELS.items(), strict=True):
        for series, (colour, marker) in STYLES.items():
            _draw_series(axes, of_series(report.points, series), measure, label=series, style=(colour, marker))
        axes.axhline(1.0, color="#333333", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_xlabel(label, fontsize=FONT_POINTS)
        axes.tick_params(labelsize=FONT_POINTS)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.yaxis.grid(visible=True, color="#E4E4E4", linewidth=0.7)
    panels[0].set_ylabel("gain recovered (1: the ceiling)", fontsize=FONT_POINTS)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=FONT_POINTS - 1, frameon=False, loc="outside upper center", ncols=3)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_series(axes: Axes, points: list[ShiftPoint], measure: str, *, label: str, style: tuple[str, str]) -> None:
    colour, marker = style
    by_condition: dict[object, list[tuple[float, float]]] = {}
    for point in points:
        if point.gain is not None:
            by_condition.setdefault(point.condition, []).append((getattr(point, measure), point.gain))
    for places in by_condition.values():
        xs, ys = zip(*places, strict=True)
        axes.scatter(xs, ys, s=14, color=colour, marker=marker, alpha=0.4, linewidths=0)
    means = [[sum(v) / len(v) for v in zip(*places, strict=True)] for places in by_condition.values()]
    if means:
        xs, ys = zip(*means, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, markersize=6, linewidth=1.4, label=label)
