"""AuditReport as a picture: for each adapter the ROC curve on logarithmic axes, and both kinds' scores.

Needs matplotlib; leaves its global state alone.
"""

from __future__ import annotations

import io

import torch

from gradtx_hf.errors import MissingExtraError
from gradtx_hf.privacy.membership import roc_curve
from gradtx_hf.privacy.report import ATTACKS, CONTROL, HEADLINE, AdapterAudit, Attack, AuditReport, attack_scores


try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        'gradtx_hf.privacy.plot needs matplotlib. Install it with: pip install "gradtx-hf[eval]"'
    ) from error


WIDTH_INCHES = 9.0
DOTS_PER_INCH = 200
FONT_POINTS = 9.5
NUM_BINS = 40
COLOURS: dict[Attack, str] = {"difference": "#D55E00", "ratio": "#E69F00", "loss": "#0072B2", "untouched": "#B8B8B8"}
"""Okabe and Ito's palette, which colour-blind readers tell apart; the control is grey."""
MEMBERS, NON_MEMBERS = "#D55E00", "#0072B2"


def render_png(report: AuditReport) -> bytes:
    """Draw the report as a PNG of 1,800 pixels' width, made to be shown at 900; a row of two panels per adapter."""
    height = 0.3 + 3.2 * len(report.adapters)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(len(report.adapters), 2, squeeze=False)
    for (left, right), audit in zip(panels, report.adapters, strict=True):
        _draw_curves(left, audit)
        _draw_scores(right, audit)
        left.set_title(_short(audit.name), fontsize=FONT_POINTS + 1, loc="left")
        for axes in (left, right):
            axes.tick_params(labelsize=FONT_POINTS)
            axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_curves(axes: Axes, audit: AdapterAudit) -> None:
    least = 1 / (2 * max(len(audit.members.adapted), len(audit.non_members.adapted)))
    axes.plot([least, 1], [least, 1], color="#333333", linewidth=0.9, linestyle=(0, (4, 3)))
    members, non_members = attack_scores(audit.members), attack_scores(audit.non_members)
    for attack in ATTACKS:
        false, true = (rates.clamp(min=least) for rates in roc_curve(members[attack], non_members[attack]))
        width = 2.0 if attack == HEADLINE else 1.2
        label = f"{attack}{' (control)' if attack == CONTROL else ''}: AUC {audit.attacks[attack].auc:.3f}"
        axes.plot(false, true, color=COLOURS[attack], linewidth=width, label=label, drawstyle="steps-post")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1.05)
    axes.set_xlabel("false positive rate", fontsize=FONT_POINTS)
    axes.set_ylabel("true positive rate", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False, loc="lower right")


def _draw_scores(axes: Axes, audit: AdapterAudit) -> None:
    members, non_members = attack_scores(audit.members)[HEADLINE], attack_scores(audit.non_members)[HEADLINE]
    both = torch.cat([members, non_members])
    low, high = float(both.min()), float(both.max())
    edges = torch.linspace(low, high if high > low else low + 1, NUM_BINS + 1).tolist()
    for scores, colour, label in ((members, MEMBERS, "members"), (non_members, NON_MEMBERS, "non-members")):
        axes.hist(scores.numpy(), bins=edges, density=True, color=colour, alpha=0.5, label=label)
    axes.set_xlabel("untouched loss minus adapted loss (nats per token)", fontsize=FONT_POINTS)
    axes.set_yticks([])
    axes.set_ylabel("density", fontsize=FONT_POINTS)
    axes.legend(fontsize=FONT_POINTS - 1.5, frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"…{name[-47:]}"
