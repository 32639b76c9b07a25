"""Input distances as a picture: one row of dots per kind of adapters on a logarithmic axis, and the limit.

Needs matplotlib; leaves its global state alone. Source: ours.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from gradtx_hf.errors import MissingExtraError


try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.studies.input_distance_plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


WIDTH_INCHES = 9.0
DOTS_PER_INCH = 200
FONT_POINTS = 9.5
COLOURS = {"seen": "#0072B2", "unseen": "#009E73", "foreign": "#D55E00", "changed": "#CC79A7"}
"""Okabe and Ito's palette, which colour-blind readers tell apart."""
LEAST_SHOWN = 1e-3
"""A logarithmic axis has no zero."""
SPREAD = 0.28
"""Half the height of a row of dots, in rows."""


def render_distances_png(kinds: Mapping[str, tuple[str, Sequence[float]]], *, limit: float) -> bytes:
    """Draw distances as a PNG of 1,800 pixels' width, made to be shown at 900.

    Args:
        kinds: By label, a role of ``COLOURS`` and the distances, at least one.
        limit: Beyond which an adapter is warned of.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 1.0 + 0.33 * len(kinds)), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(limit, color="#333333", linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
    axes.annotate(
        f"limit {limit:.2f}: warned of beyond",
        (limit, 1.0),
        (4, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=FONT_POINTS,
    )
    for row, (role, distances) in enumerate(kinds.values()):
        shown = [max(distance, LEAST_SHOWN) for distance in sorted(distances)]
        heights = [row + SPREAD * (2 * ((i * 0.618) % 1) - 1) for i in range(len(shown))]  # golden ratio: even, fixed
        axes.scatter(shown, heights, s=13, color=COLOURS[role], alpha=0.55, linewidths=0)
        share = sum(distance > limit for distance in distances) / len(distances)
        axes.annotate(
            f"{share:.0%}",
            (1.0, row),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=FONT_POINTS,
        )
    axes.annotate(
        "warned of",
        (1.0, 1.0),
        (6, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=FONT_POINTS,
    )
    axes.set_yticks(range(len(kinds)), list(kinds))
    for label, (role, _) in zip(axes.get_yticklabels(), kinds.values(), strict=True):
        label.set_color(COLOURS[role])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.tick_params(labelsize=FONT_POINTS)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.xaxis.grid(visible=True, color="#E4E4E4", linewidth=0.7)
    axes.set_xlabel("input distance (1: like the shadow sets')", fontsize=FONT_POINTS)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
