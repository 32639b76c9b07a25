"""Report as a picture: the translated adapter beside its controls, one panel per group of clients.

A dashed line is the ceiling. Needs matplotlib; draws on a figure of its own and leaves matplotlib's global state alone.
"""

from __future__ import annotations

import io
import textwrap

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.evaluation.headline import format_score, group_title
from gradtx_hf.evaluation.methods import CEILING, Kind, method_of, ordered_methods
from gradtx_hf.evaluation.report import Report


try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.evaluation.plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


WIDTH_INCHES = 9.0
"""At 100 dots per inch this is the 900 pixels of a README's column, where type keeps its size in points."""
DOTS_PER_INCH = 200
FONT_POINTS = 9.5
LABEL_CHARACTERS = 27

COLOURS: dict[Kind, str] = {
    "source": "#56B4E9",
    "untouched": "#B8B8B8",
    "control": "#B8B8B8",
    "rival": "#8A8A8A",
    "variant": "#E8A87C",
    "translated": "#D55E00",
    "ceiling": "#FFFFFF",
}
"""Okabe and Ito's palette, which colour-blind readers tell apart; controls are grey, other forms of the translation
pale, the ceiling an outline."""


def render_png(report: Report) -> bytes:
    """Draw the report as a PNG of 1,800 pixels' width, made to be shown at 900.

    Args:
        report: The report; one panel per group in ``report.groups``.

    Returns:
        The file's bytes.
    """
    names = ordered_methods(name for group in report.groups for name in report.summary[group].methods)
    figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 0.4 * len(names)), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(report.groups), sharex=True, sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, report.groups, strict=True):
        _draw_group(axes, report, group, names)
    panels[0].set_yticks(range(len(names)), [textwrap.fill(method_of(n).label, LABEL_CHARACTERS) for n in names])
    for name, label in zip(names, panels[0].get_yticklabels(), strict=True):
        label.set_fontweight("bold" if method_of(name).kind == "translated" else "normal")
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    low, high = _score_range(report)
    # Room for the numbers at the bars, as wide in every panel; no ticks there, as a share above 1 is no score.
    panels[0].set_xlim(low, high + 0.12 * len(panels) * (high - low))
    panels[0].set_xticks([tick for tick in panels[0].get_xticks() if low <= tick <= 1.001 * high])
    direction = "higher is better" if report.higher_is_better else "lower is better"
    figure.supxlabel(f"{report.metric.replace('_', ' ')} ({direction})", fontsize=FONT_POINTS)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_group(axes: Axes, report: Report, group: str, names: list[str]) -> None:
    summary = report.summary[group]
    if CEILING in summary.methods:
        axes.axvline(
            summary.methods[CEILING].score.mean, color="#333333", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5
        )
    for place, name in enumerate(names):
        if name not in summary.methods:
            axes.annotate("not scored", (0, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
            continue
        score, kind = summary.methods[name].score, method_of(name).kind
        low = score.mean if score.low is None else score.low
        high = score.mean if score.high is None else score.high
        axes.barh(place, score.mean, height=0.68, color=COLOURS[kind], edgecolor="#333333", linewidth=0.8)
        if high > low:
            axes.errorbar(
                score.mean,
                place,
                xerr=[[score.mean - low], [high - score.mean]],
                color="#333333",
                capsize=2.5,
                linewidth=1,
            )
        axes.annotate(
            format_score(score.mean),
            (max(high, score.mean, 0.0), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_POINTS,
            fontweight="bold" if kind == "translated" else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},  # keeps the ceiling's line off the number
        )
    axes.set_title(group_title(group, num_clients=summary.num_clients), fontsize=FONT_POINTS + 1)
    axes.tick_params(labelsize=FONT_POINTS)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.xaxis.grid(visible=True, color="#E4E4E4", linewidth=0.7)


def _score_range(report: Report) -> tuple[float, float]:
    """Return the ends of the score axis: 0 and all intervals."""
    ends = [0.0]
    for group in report.groups:
        for method in report.summary[group].methods.values():
            ends += [v for v in (method.score.low, method.score.mean, method.score.high) if v is not None]
    return min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1.0
