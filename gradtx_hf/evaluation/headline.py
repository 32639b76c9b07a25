"""The verdict of a report in words: what the translated adapter scores, and whether the client's adapter was needed.

A control that does as well is named, and the sentence says what that means. "As well" compares means; where the
translated adapter leads by less than its bootstrap interval, paired by client, that is said too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradtx_hf.evaluation.methods import CEILING, TRANSLATED, method_of
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.summary import GroupSummary


LEAD_TOLERANCE = 1e-9
"""Leads up to this are ties: rounding of a mean (ours)."""


def headline(report: Report, group: str) -> str:
    """Return the verdict on one group of clients, a few sentences of Markdown.

    Args:
        report: The report.
        group: One of ``report.groups``.
    """
    summary = report.summary[group]
    where = group_title(group, num_clients=summary.num_clients)
    if TRANSLATED not in summary.methods:
        return f"{where}: no translated adapter was scored."
    best = _best_control(summary)
    metric = report.metric.replace("_", " ")
    direction = "higher" if report.higher_is_better else "lower"
    parts = [f"the translated adapter scores {_mean(summary, TRANSLATED)} {metric} ({direction} is better)"]
    if best:
        parts.append(f"the best control, {method_of(best).short}, {_mean(summary, best)}")
    if CEILING in summary.methods:
        parts.append(f"the ceiling {_mean(summary, CEILING)}")
    gain = summary.gain_recovered
    numbers = f"{where}: {', '.join(parts)}"
    if gain.value is not None:
        numbers += f"; {gain.value:.0%} of the possible gain is recovered"
    return " ".join([f"{numbers}.", *_verdict(summary, best)])


def group_title(group: str, *, num_clients: int) -> str:
    """Return a group's title, such as ``Seen tasks (8 clients)``."""
    title = {"all": "All tasks", "seen": "Seen tasks", "unseen": "Unseen tasks"}[group]
    return f"{title} ({count_of(num_clients, 'client')})"


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 task`` or ``4 tasks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_score(value: float | None) -> str:
    """Return a score with three decimals, or a dash where there is none."""
    if value is None:
        return "-"
    digits = 3 if abs(value) < 100 else 1
    return f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0.0 turns -0.0 into 0.0


def format_p(value: float) -> str:
    """Return a p-value with two digits, such as ``0.031``, or ``< 0.001``."""
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def _verdict(summary: GroupSummary, best: str | None) -> list[str]:
    """Return one sentence per kind of method that does as well as the translated adapter, or that none does."""
    as_good = [name for name in summary.methods if _lead(summary, name) <= LEAD_TOLERANCE]
    sayings = {
        "untouched": "Translation did not help: {names} is at least as good.",
        "control": "The client's adapter added nothing beyond {names}, at least as good as the translated adapter.",
        "rival": "The translator added nothing beyond {names}, at least as good as the translated adapter.",
        "source": "Nothing was gained over the client's own small model: {names} is at least as good.",
    }
    sentences = []
    for kind, saying in sayings.items():
        names = [name for name in as_good if method_of(name).kind == kind]
        if names:
            sentences.append(f"**{saying.format(names=_listed(summary, names))}**")
            if kind == "untouched":
                break  # with nothing gained at all, it says nothing more that others gain nothing either
    if best is None:
        sentences.append("No control was scored, so this says nothing about translation.")
    elif best not in as_good:
        sentences.append(_lead_sentence(summary, best))
    return sentences


def _lead_sentence(summary: GroupSummary, best: str) -> str:
    """Say by how much the translated adapter leads its best control, and which leads may be chance."""
    lead = summary.methods[best].lead_of_translated
    if lead is None:
        return "No client has scores of both it and a control."
    sentence = f"It leads every control, {method_of(best).short} by {format_score(lead.mean)}"
    if lead.low is None or lead.high is None:
        return f"{sentence}; one task, so without an interval."
    p_value = summary.methods[best].p_value
    sentence += f" [{format_score(lead.low)}, {format_score(lead.high)}]"
    sentence += "" if p_value is None else f", p = {format_p(p_value)}".replace("= <", "<")
    sentence += "; one task, so over its examples alone." if summary.num_tasks == 1 else "."
    doubtful = [name for name in _controls(summary) if _low_end(summary, name) <= 0]
    if doubtful:
        names = _listed(summary, doubtful)
        sentence += f" **It may do so by chance: nothing shows that it adds anything beyond {names}.**"
    return sentence


def _controls(summary: GroupSummary) -> list[str]:
    """Return all methods but the translated adapter, other forms of it, small models and the ceiling."""
    others = ("translated", "variant", "source", "ceiling")
    return [name for name in summary.methods if method_of(name).kind not in others]


def _best_control(summary: GroupSummary) -> str | None:
    """Return the control that the translated adapter leads by least."""
    return min(_controls(summary), key=lambda name: _lead(summary, name), default=None)


def _lead(summary: GroupSummary, name: str) -> float:
    """Return the translated adapter's mean lead over a method; infinite where no client has both."""
    lead = summary.methods[name].lead_of_translated
    return math.inf if lead is None else lead.mean


def _low_end(summary: GroupSummary, name: str) -> float:
    """Return the low end of that lead's interval; infinite where there is none."""
    lead = summary.methods[name].lead_of_translated
    return math.inf if lead is None or lead.low is None else lead.low


def _mean(summary: GroupSummary, name: str) -> str:
    return format_score(summary.methods[name].score.mean)


def _listed(summary: GroupSummary, names: Sequence[str]) -> str:
    """Return methods with their scores, such as ``mean shadow (0.120) and nearest shadow (0.500)``."""
    items = [f"{method_of(name).short} ({_mean(summary, name)})" for name in names]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
