"""Report as Markdown: the verdict first, then all numbers, times, configuration and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gradtx_hf.evaluation.headline import count_of, format_p, format_score, group_title, headline
from gradtx_hf.evaluation.methods import STORE_CONTROLS, TRANSLATED, method_of, ordered_methods
from gradtx_hf.evaluation.pgr import Recovered
from gradtx_hf.evaluation.pooling import BY_STUDY_SEED
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.summary import Estimate, MethodSummary
from gradtx_hf.hub.markdown import markdown_table


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
        _not_run(report),
        _group_shares(report),
        lead_table(report),
        "## Clients\n\n" + _client_table(report),
        _client_reasons(report),
        "## Seconds\n\n" + markdown_table(["phase", "seconds"], [[k, f"{v:.1f}"] for k, v in report.seconds.items()]),
        "## Configuration\n\n```json\n"
        + json.dumps(report.to_json()["config"], indent=2, ensure_ascii=False)
        + "\n```",
        "## Versions\n\n" + markdown_table(["library", "version"], [[k, v] for k, v in report.versions.items()]),
        _origin(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary_table(report: Report) -> str:
    """Return methods by groups: means over clients with 95 % intervals over tasks, and what the controls rest on.

    Columns: the score, nats per token where the metric has completions, and the gain recovered. A report pooled
    over several study seeds has a second table, of each one's means.
    """
    groups = report.groups
    shown = ordered_methods(name for group in groups for name in report.summary[group].methods)
    has_nats = any(method.nats_per_token for group in groups for method in report.summary[group].methods.values())
    head = ["method"]
    for group in groups:
        head.append(group_title(group, num_clients=report.summary[group].num_clients))
        head += [*(["nats per token (lower is better)"] if has_nats else []), "gain recovered"]
    rows = []
    for name in shown:
        cells = [_cells(report.summary[group].methods.get(name), has_nats=has_nats) for group in groups]
        rows.append([_row_label(name), *(cell for group in cells for cell in group)])
    sections = [_note(report, has_nats=has_nats), markdown_table(head, rows), _store_controls(report)]
    if len({client.study_seed for client in report.clients}) > 1:
        sections.append(seed_table(report))
    return "\n\n".join(section for section in sections if section)


def seed_table(report: Report) -> str:
    """Return the mean scores of a pooled report by method and by group and study seed."""
    seeds = sorted({client.study_seed for client in report.clients if client.study_seed is not None})
    columns = {}
    for group in report.groups:
        wanted = {"all": (True, False, None), "seen": (True,), "unseen": (False,)}[group]
        for seed in seeds:
            members = [c for c in report.clients if c.study_seed == seed and c.seen in wanted]
            columns[f"{group_title(group, num_clients=len(members))}, study seed {seed}"] = members
    rows = []
    for name in ordered_methods(name for client in report.clients for name in client.scores):
        found = [[client.scores.get(name) for client in members] for members in columns.values()]
        rows.append([_row_label(name), *(format_score(_mean(scores)) for scores in found)])
    return f"The same means by study seed:\n\n{markdown_table(['method', *columns], rows)}"


def lead_table(report: Report) -> str:
    """Return by how much the translated adapter leads each method, with interval and p; empty without such a lead."""
    groups = [name for name in report.groups if TRANSLATED in report.summary[name].methods]
    head, columns = ["method"], []
    for group in groups:
        summary = report.summary[group]
        head += [group_title(group, num_clients=summary.num_clients), "p"]
        columns.append(summary.methods)
    found = ordered_methods(name for methods in columns for name in methods)
    rows = [
        [_row_label(name), *(cell for methods in columns for cell in _lead_cells(methods.get(name)))]
        for name in found
        if name != TRANSLATED
    ]
    if not rows:
        return ""
    note = (
        "By how much it is better, paired by client. p: two-sided, of a permutation test that flips the signs of "
        "tasks, not corrected for the number of methods; with n tasks it cannot fall below 2 / 2ⁿ. In a group of one "
        "task it flips those of examples, and says nothing of further tasks or runs."
    )
    return f"## The translated adapter against each method\n\n{note}\n\n{markdown_table(head, rows)}"


def _note(report: Report, *, has_nats: bool) -> str:
    direction = "higher" if report.higher_is_better else "lower"
    total = report.summary["all"]
    num_seeds = len({client.study_seed for client in report.clients} - {None})
    tasks, clients = count_of(total.num_tasks, "task"), count_of(total.num_clients, "client")
    over = (
        f"pairs of study seed and task ({count_of(total.num_tasks, 'pair')} of {count_of(num_seeds, 'study seed')}, "
        f"{clients})"
        if num_seeds
        else f"tasks ({tasks}, {clients})"
    )
    if all(client.example_scores for client in report.clients):
        over += " and the examples of each client"
    nats = (
        " Nats per token: mean negative log-likelihood of the reference completions, their end token among them."
        if has_nats
        else ""
    )
    return (
        f"Metric: {report.metric.replace('_', ' ')} ({direction} is better). Means over clients; in brackets 95 % "
        f"bootstrap intervals over {over}. Gain recovered: the share of the gap between the untouched target and the "
        f"ceiling.{nats}"
    )


def _store_controls(report: Report) -> str:
    """Say on how many target runs the controls that are made from the store rest; empty where that is not known."""
    values: list[Mapping[str, Any]] = [report.config, *report.config.get(BY_STUDY_SEED, {}).values()]
    numbers = sorted({number for value in values if isinstance(number := value.get("num_target_runs"), int)})
    if not numbers:
        return ""
    methods = report.summary["all"].methods
    shown = [method_of(name).short for name in STORE_CONTROLS if name in methods]
    absent = [method_of(name).short for name in STORE_CONTROLS if name not in methods]
    if not shown:
        return f"{_listed(absent)} are left out: the store has no target run."
    runs = f"the {' or '.join(map(str, numbers))} target run{'' if numbers == [1] else 's'} of the store"
    too_few = f", too few for {' and '.join(absent)}" if absent else ""
    return f"{_listed(shown)} rest on {runs}{too_few}."


def _cells(method: MethodSummary | None, *, has_nats: bool) -> list[str]:
    nats = method.nats_per_token if method else None
    return [
        format_estimate(method.score) if method else "-",
        *([format_estimate(nats) if nats else "-"] if has_nats else []),
        format_share(method.gain_recovered) if method else "-",
    ]


def _lead_cells(method: MethodSummary | None) -> list[str]:
    if method is None or method.lead_of_translated is None:
        return ["-", "-"]
    p_value = method.p_value
    return [format_estimate(method.lead_of_translated), "-" if p_value is None else format_p(p_value)]


def _row_label(name: str) -> str:
    label = method_of(name).label
    return f"**{label}**" if name == TRANSLATED else label


def _listed(names: Sequence[str]) -> str:
    """Return names as the beginning of a sentence, such as ``Mean shadow, nearest shadow and ridge``."""
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return listed[:1].upper() + listed[1:]


def _mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean of the scores that are there; None without one."""
    found = [score for score in scores if score is not None]
    return sum(found) / len(found) if found else None


def _not_run(report: Report) -> str:
    """Return which methods were asked for and not run, one line each with the reason."""
    return "\n".join(f"- Not run: {method_of(name).label}: {why}" for name, why in report.not_run.items())


def _group_shares(report: Report) -> str:
    """Return PGR and gain recovered of every group, one line each, with the reason where there is none."""
    lines = []
    for group in report.groups:
        summary = report.summary[group]
        title = group_title(group, num_clients=summary.num_clients)
        for name, share in (("PGR", summary.pgr), ("Gain recovered", summary.gain_recovered)):
            reason = f" ({share.reason})" if share.reason else ""
            lines.append(f"- {name}, {title[0].lower()}{title[1:]}: {format_share(share)}{reason}")
    return "\n".join(lines)


def _client_table(report: Report) -> str:
    names = ordered_methods(name for client in report.clients for name in client.scores)
    has_seeds = any(client.seed is not None for client in report.clients)
    has_study_seeds = any(client.study_seed is not None for client in report.clients)
    seeds = [*(["study seed"] if has_study_seeds else []), *(["seed"] if has_seeds else [])]
    head = ["client", "task", "seen", *seeds, *(method_of(n).short for n in names)]
    rows = []
    for number, client in enumerate(report.clients, start=1):
        seen = {True: "yes", False: "no", None: "-"}[client.seen]
        study_seed = [str(client.study_seed)] if has_study_seeds else []
        seed = ["-" if client.seed is None else str(client.seed)] if has_seeds else []
        scores = [format_score(client.scores.get(name)) for name in names]
        shares = [
            format_share(client.pgr(higher_is_better=report.higher_is_better)),
            format_share(client.gain_recovered(higher_is_better=report.higher_is_better)),
        ]
        rows.append([str(number), client.task, seen, *study_seed, *seed, *scores, *shares])
    return markdown_table([*head, "PGR", "gain recovered"], rows)


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


def format_estimate(estimate: Estimate) -> str:
    """Return a mean with its interval, if it has one."""
    if estimate.low is None or estimate.high is None:
        return format_score(estimate.mean)
    return f"{format_score(estimate.mean)} [{format_score(estimate.low)}, {format_score(estimate.high)}]"


def format_share(share: Recovered) -> str:
    """Return a share of a gap with its interval, or a dash where there is none."""
    if share.value is None:
        return "-"
    if share.low is None or share.high is None:
        return _two_digits(share.value)
    return f"{_two_digits(share.value)} [{_two_digits(share.low)}, {_two_digits(share.high)}]"


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # adding 0.0 turns -0.0 into 0.0
