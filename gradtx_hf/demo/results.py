"""The reports that are kept with the package, and how a phone shows them."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from gradtx_hf.demo import drawing
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation import Report
from gradtx_hf.evaluation.headline import format_score, group_title
from gradtx_hf.evaluation.methods import CEILING, TRANSLATED, method_of, ordered_methods


PACKAGED, IN_REPOSITORY = Path(__file__).parent / "results", Path(__file__).parents[2] / "examples" / "results"
TITLES = {
    "functional": "Edit rules: the main table",
    "quickstart_seed_0": "Edit rules: gradtx quickstart, seed 0",
    "quickstart_seed_1": "Edit rules: gradtx quickstart, seed 1",
    "real_text": "Real checkpoints, real text",
    "conventions": "Real checkpoints, house conventions",
}
"""Reports by name, in the order in which they are offered; another one is offered under its own name."""
PARTS = {"metric", "clients", "summary", "seconds", "config", "versions"}
"""What a report.json has; other kept files are no reports."""


def results_folder() -> Path:
    """Return where the reports are: in the installed package, or in the repository that it is run from."""
    return PACKAGED if PACKAGED.is_dir() else IN_REPOSITORY


def report_names() -> list[str]:
    """Return the names of all reports that are there, such as ``functional`` or ``studies/baselines``."""
    root = results_folder()
    files = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.json")}
    found = sorted((name for name, path in files.items() if _is_report(path)), key=lambda name: (name.count("/"), name))
    return [*(name for name in TITLES if name in found), *(name for name in found if name not in TITLES)]


def title_of(name: str) -> str:
    """Return how a report is offered, such as ``Many clients`` or ``Studies: baselines``."""
    words = name.replace("_", " ").replace("/", ": ")
    return TITLES.get(name, words[:1].upper() + words[1:])


def load_report(name: str) -> Report:
    """Read a report.

    Raises:
        ConfigurationError: If there is none of that name.
    """
    if name not in report_names():
        raise ConfigurationError(f"there is no report {name[:100]!r}. Choose one of {', '.join(report_names())}.")
    return Report.load(results_folder() / f"{name}.json")


def _is_report(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(values, dict) and values.keys() >= PARTS


def draw_bars(report: Report, group: str) -> str:
    """Draw the mean score of every method as a bar, with its interval; the ceiling is a line across them.

    Args:
        report: The report.
        group: One of ``report.groups``.
    """
    summary = report.summary[group]
    ends = [
        method.score.mean if method.score.high is None else method.score.high for method in summary.methods.values()
    ]
    full = max([*ends, 1e-9])
    ceiling = summary.methods[CEILING].score.mean / full if CEILING in summary.methods else None
    line = "" if ceiling is None else f'<span class="gx-limit" style="left:{100 * ceiling:.1f}%"></span>'
    items = ""
    for name in ordered_methods(summary.methods):
        method, score = method_of(name), summary.methods[name].score
        spread = ""
        interval = ""
        if score.low is not None and score.high is not None:
            left, width = 100 * max(score.low, 0.0) / full, 100 * (score.high - max(score.low, 0.0)) / full
            spread = f'<span class="gx-interval" style="left:{left:.1f}%;width:{width:.1f}%"></span>'
            interval = f" [{format_score(score.low)}, {format_score(score.high)}]"
        items += (
            f'<li class="{"gx-main" if name == TRANSLATED else ""}">'
            f'<span class="gx-label">{escape(method.label)}</span>'
            f'<span class="gx-bar gx-{method.kind}" aria-hidden="true">'
            f'<span style="width:{100 * max(score.mean, 0.0) / full:.1f}%"></span>{spread}{line}</span>'
            f'<span class="gx-number">{format_score(score.mean)}<small>{interval}</small></span></li>'
        )
    better = "higher" if report.higher_is_better else "lower"
    heading = (
        f"{group_title(group, num_clients=summary.num_clients)}: {report.metric.replace('_', ' ')} ({better} is better)"
    )
    return f'<h3 class="gx-bars-title">{escape(heading)}</h3><ul class="gx-bars gx-wide">{items}</ul>'


def draw_legend() -> str:
    """Say what the marks of ``draw_bars`` mean."""
    return drawing.note(
        "Thin lines: 95 % bootstrap intervals. Dashed: the ceiling, the large model fine-tuned on the private data."
    )
