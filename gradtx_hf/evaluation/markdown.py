"""Report as Markdown: the verdict first, then all numbers, times, configuration and versions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gradtx_hf.evaluation.headline import count_of, format_score, group_title, headline
from gradtx_hf.evaluation.methods import TRANSLATED, method_of, ordered_methods
from gradtx_hf.evaluation.pgr import Recovered
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.summary import Estimate


def render_markdown(report: Report, *, plot_file: str | None = None) -> str:
    """Return the text of report.md.

    Args:
        report: The report.
        plot_file: The plot's path as seen from the Markdown file; None for no picture.
    """
    sections = [
        "# Report",
        "\n\n".join(headline(report, group) for group in report.groups),
        f"![Scores of all methods]({plot_file})" if plot_file else "",
        "## Methods\n\n" + summary_table(report),
        _group_shares(report),
        "## Clients\n\n" + _client_table(report),
        _client_reasons(report),
        "## Seconds\n\n" + _table(["phase", "seconds"], [[k, f"{v:.1f}"] for k, v in report.seconds.items()]),
        "## Configuration\n\n```json\n"
        + json.dumps(report.to_json()["config"], indent=2, ensure_ascii=False)
        + "\n```",
        "## Versions\n\n" + _table(["library", "version"], [[k, v] for k, v in report.versions.items()]),
        _origin(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary_table(report: Report) -> str:
    """Return methods by groups: score and gain recovered, means over clients with 95 % intervals over tasks."""
    groups = report.groups
    head = ["method"]
    for group in groups:
        head += [group_title(group, num_clients=report.summary[group].num_clients), "gain recovered"]
    rows = []
    for name in ordered_methods(name for group in groups for name in report.summary[group].methods):
        label = method_of(name).label
        row = [f"**{label}**" if name == TRANSLATED else label]
        for group in groups:
            method = report.summary[group].methods.get(name)
            row += [_estimate(method.score), _share(method.gain_recovered)] if method else ["-", "-"]
        rows.append(row)
    direction = "higher" if report.higher_is_better else "lower"
    total = report.summary["all"]
    counts = f"{count_of(total.num_tasks, 'task')}, {count_of(total.num_clients, 'client')}"
    note = (
        f"Metric: {report.metric.replace('_', ' ')} ({direction} is better). Means over clients; in brackets 95 % "
        f"bootstrap intervals over tasks ({counts}). Gain recovered: the share of the gap between the untouched target "
        "and the ceiling."
    )
    return f"{note}\n\n{_table(head, rows)}"


def _group_shares(report: Report) -> str:
    """Return PGR and gain recovered of every group, one line each, with the reason where there is none."""
    lines = []
    for group in report.groups:
        summary = report.summary[group]
        title = group_title(group, num_clients=summary.num_clients)
        for name, share in (("PGR", summary.pgr), ("Gain recovered", summary.gain_recovered)):
            reason = f" ({share.reason})" if share.reason else ""
            lines.append(f"- {name}, {title[0].lower()}{title[1:]}: {_share(share)}{reason}")
    return "\n".join(lines)


def _client_table(report: Report) -> str:
    names = ordered_methods(name for client in report.clients for name in client.scores)
    has_seeds = any(client.seed is not None for client in report.clients)
    head = ["client", "task", "seen", *(["seed"] if has_seeds else []), *(method_of(n).short for n in names)]
    rows = []
    for number, client in enumerate(report.clients, start=1):
        seen = {True: "yes", False: "no", None: "-"}[client.seen]
        seed = ["-" if client.seed is None else str(client.seed)] if has_seeds else []
        scores = [format_score(client.scores.get(name)) for name in names]
        shares = [
            _share(client.pgr(higher_is_better=report.higher_is_better)),
            _share(client.gain_recovered(higher_is_better=report.higher_is_better)),
        ]
        rows.append([str(number), client.task, seen, *seed, *scores, *shares])
    return _table([*head, "PGR", "gain recovered"], rows)


def _client_reasons(report: Report) -> str:
    """Say for every client without a PGR or gain recovered why there is none."""
    lines = []
    for number, client in enumerate(report.clients, start=1):
        pgr = client.pgr(higher_is_better=report.higher_is_better)
        gain = client.gain_recovered(higher_is_better=report.higher_is_better)
        for name, share in (("PGR", pgr), ("gain recovered", gain)):
            if share.reason:
                lines.append(f"- client {number} has no {name}: {share.reason}.")
    return "\n".join(lines)


def _origin(report: Report) -> str:
    with_command = f" with `{report.command}`" if report.command else ""
    return f"Written by gradtx-hf {report.versions.get('gradtx-hf', '(unknown version)')}{with_command}."


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return format_score(estimate.mean)
    return f"{format_score(estimate.mean)} [{format_score(estimate.low)}, {format_score(estimate.high)}]"


def _share(share: Recovered) -> str:
    if share.value is None:
        return "-"
    if share.low is None or share.high is None:
        return _two_digits(share.value)
    return f"{_two_digits(share.value)} [{_two_digits(share.low)}, {_two_digits(share.high)}]"


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # adding 0.0 turns -0.0 into 0.0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar within a cell is escaped, a line break becomes a space."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
