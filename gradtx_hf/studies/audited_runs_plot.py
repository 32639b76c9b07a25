"""Lower bounds of epsilon as a picture: a dot for each audited run, and the epsilon that is claimed.

Needs matplotlib; leaves its global state alone. Source: ours.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

from gradtx_hf.errors import MissingExtraError


try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.studies.audited_runs_plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


WIDTH_INCHES = 9.0
DOTS_PER_INCH = 200
FONT_POINTS = 9.5
PRIVATE, CAUGHT = "#0072B2", "#D55E00"
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""


def render_bounds_png(bounds: Mapping[str, float], *, claimed: float) -> bytes:
    """Draw bounds as a PNG of 1,800 pixels' width, made to be shown at 900.

    Args:
        bounds: Name of a run to its lower bound, at least one.
        claimed: The epsilon that private runs claim.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    axes.axhline(claimed, color="#333333", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"claimed {claimed:g}", (0, claimed), (2, 4), textcoords="offset points", fontsize=FONT_POINTS, ha="left"
    )
    for place, (name, bound) in enumerate(bounds.items()):
        is_caught = bound > claimed
        axes.scatter(place, bound, s=30, color=CAUGHT if is_caught else PRIVATE, zorder=3)
        if not name.rpartition("_")[2].isdigit():
            axes.annotate(
                name.replace("_", " "),
                (place, bound),
                (-6, 0),
                textcoords="offset points",
                fontsize=FONT_POINTS,
                ha="right",
                va="center",
            )
    axes.set_xticks([])
    axes.set_xlabel("audited runs", fontsize=FONT_POINTS)
    axes.set_ylabel("lower bound of epsilon", fontsize=FONT_POINTS)
    axes.set_ylim(-0.1, 1.15 * max(claimed, *bounds.values()))
    axes.tick_params(labelsize=FONT_POINTS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(visible=True, color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
