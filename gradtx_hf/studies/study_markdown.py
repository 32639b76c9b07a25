"""A study's report as Markdown: the question, the cells beside the controls, and what was not run. Source: ours."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gradtx_hf.evaluation import GroupSummary, MethodSummary
from gradtx_hf.evaluation.headline import count_of, group_title, headline
from gradtx_hf.evaluation.markdown import format_estimate, format_share, seed_table
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED, method_of
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.clients import PUBLIC_FINETUNE, SHADOW_MEAN, SHUFFLED_INPUT, SOURCE_AGGREGATE
from gradtx_hf.studies.results import pooled
from gradtx_hf.studies.study_report import GROUPS, REFERENCES, CellReport, StudyReport


NOTHING = "-"
CONTROLS_OF_CELLS = (
    SOURCE_CLIENT,
    SOURCE_AGGREGATE,
    TARGET_UNTOUCHED,
    PUBLIC_FINETUNE,
    SHADOW_MEAN,
    "nearest_shadow",
    "ridge",
    SHUFFLED_INPUT,
    TRANSLATED,
    CEILING,
)
LEAST_SECONDS = 0.05
"""A stage below this had nothing to do."""


def render_study(report: StudyReport, *, plot_file: str | None) -> str:
    """Return the text of report.md.

    Args:
        report: The report.
        plot_file: The plot's path as seen from the Markdown file; None for no picture.
    """
    study = report.study
    sections = [
        f"# {study.title}",
        study.question,
        f"Compare {study.paper}." if study.paper else "",
        study.note,
        f"![{study.title}]({plot_file})" if plot_file else "",
        _unfinished(report),
        "## Cells\n\n" + cell_table(report),
        _controls_of_cells(report),
        _main_cell(report),
        "## Cost\n\n" + _cost(report),
        "## Configuration\n\n```json\n"
        + json.dumps(report.to_json()["config"], indent=2, ensure_ascii=False)
        + "\n```",
        "## Versions\n\n" + markdown_table(["library", "version"], list(report.to_json()["versions"].items())),
        f"Written with `{report.command}`." if report.command else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def cell_table(report: StudyReport) -> str:
    """Return cells by groups of clients, then, where all have one pair of models, the controls: the reference."""
    main, pairs = report.main, report.pairs
    if main is None:
        return "No cell has a result."
    groups = [group for group in GROUPS if group in main.summary]
    head = ["cell"]
    for group in groups:
        title = group_title(group, num_clients=main.summary[group].num_clients)
        head += [title, "gain recovered", "nats per token"]
    rows = [_cell_row(cell, groups) for cell in report.cells]
    for _, summary in pairs if len(pairs) == 1 else ():
        for name in REFERENCES:
            if name in summary["all"].methods:
                rows.append([f"*{method_of(name).label}*", *_numbers(summary, groups, name), NOTHING])
    return f"{_note(report)}\n\n{markdown_table([*head, 'shuffled input'], rows)}"


def _note(report: StudyReport) -> str:
    seeds = count_of(report.num_seeds, "study seed")
    runs = sorted({result.num_target_runs for cell in report.cells for result in cell.results})
    whose = "the first cell's clients" if any(cell.cell.clients for cell in report.cells) else "the same clients"
    where = f"In italics the controls on {whose}" if len(report.pairs) == 1 else "The controls are in a table below"
    return (
        f"Exact match (higher is better), {seeds}, each with another split of the rules. Means "
        "over clients; in brackets 95 % bootstrap intervals over pairs of study seed and rule. Gain recovered: the "
        "share of the gap between the untouched target and the ceiling. Nats per token: mean negative log-likelihood "
        "of the reference completions, lower is better. Shuffled input: exact match, all clients, with another "
        f"client's adapter translated. {where}; mean shadow, nearest shadow and "
        f"ridge rest on {' or '.join(map(str, runs))} target runs."
    )


def _cell_row(cell: CellReport, groups: list[str]) -> list[str]:
    label = cell.cell.label
    if not cell.results:
        return [f"{label} ({cell.status})", *[NOTHING] * (3 * len(groups) + 1)]
    some = f" (seeds {', '.join(str(result.seed) for result in cell.results)})" if cell.missing else ""
    shuffled = cell.method("all", SHUFFLED_INPUT)
    return [
        label + some,
        *_numbers(cell.summary, groups, TRANSLATED),
        format_estimate(shuffled.score) if shuffled else NOTHING,
    ]


def _controls_of_cells(report: StudyReport) -> str:
    """Return the scores of the controls on each cell's own clients, where cells have clients or models of their own."""
    if len(report.pairs) <= 1 and not any(cell.cell.clients for cell in report.cells):
        return ""
    rows = []
    names = [name for name in CONTROLS_OF_CELLS if any(cell.method("all", name) for cell in report.cells)]
    for cell in report.cells:
        for group in [group for group in GROUPS if group in cell.summary]:
            found = [cell.method(group, name) for name in names]
            shown = [format_estimate(method.score) if method else NOTHING for method in found]
            rows.append([cell.cell.label, group, *shown, _off_the_map(cell)])
    heads = [method_of(name).short for name in names]
    return (
        "## Controls of each cell\n\nExact match on the cell's own clients. Off the map: of the updates that the "
        "translator reads, seen and unseen, those beyond its distance limit, of which a translation warns.\n\n"
        + markdown_table(["cell", "tasks", *heads, "off the map"], rows)
    )


def _off_the_map(cell: CellReport) -> str:
    counts = [result.values["off_the_map"] for result in cell.results]
    if any(count["updates"] is None for count in counts):
        return NOTHING
    return f"{sum(count['updates'] for count in counts)} of {sum(count['of'] for count in counts)}"


def _numbers(summary: Mapping[str, GroupSummary], groups: list[str], name: str) -> list[str]:
    cells = []
    for group in groups:
        method: MethodSummary | None = summary[group].methods.get(name)
        nats = method.nats_per_token if method else None
        cells += [
            format_estimate(method.score) if method else NOTHING,
            format_share(method.gain_recovered) if method else NOTHING,
            format_estimate(nats) if nats else NOTHING,
        ]
    return cells


def _unfinished(report: StudyReport) -> str:
    """Return a line per cell that failed or was not run, with the command that runs it."""
    lines = []
    for cell in report.cells:
        if cell.failure is not None:
            lines.append(f"- {cell.cell.label}: **failed**, {cell.failure} Try again: `{cell.command}`")
        elif cell.missing:
            seeds = ", ".join(map(str, cell.missing))
            lines.append(f"- {cell.cell.label}: not run (seed {seeds}). Run it: `{cell.command}`")
    return "\n".join(lines)


def _main_cell(report: StudyReport) -> str:
    """Return the verdict on the main cell beside the controls, and the means by seed where there are several."""
    main, evaluation = report.main, report.evaluation
    if main is None or evaluation is None:
        return ""
    alone = pooled({result.seed: result.clients for result in main.results}, config={})
    lines = [f"## {main.cell.label}", *(headline(alone, group) for group in alone.groups)]
    if CEILING in evaluation.summary["all"].methods and len(main.results) > 1:
        lines += [f"In this table the translated adapter is that of '{main.cell.label}'.", seed_table(evaluation)]
    return "\n\n".join(lines)


def _cost(report: StudyReport) -> str:
    spent = {name: f"{value:.1f}" for name, value in report.seconds.items() if value >= LEAST_SECONDS}
    stages = markdown_table(["stage", "seconds"], [[name, value] for name, value in spent.items()])
    rows = []
    for cell in report.cells:
        for result in cell.results:
            seconds = result.values["seconds"]
            updates = result.values["num_training_updates"]
            rows.append(
                [
                    cell.cell.label,
                    str(result.seed),
                    str(updates),
                    f"{seconds['training']:.1f}",
                    f"{seconds['scoring']:.1f}",
                ]
            )
    cells = markdown_table(["cell", "study seed", "source updates", "training", "scoring"], rows)
    return (
        f"Wall-clock time of the stages, several jobs side by side:\n\n{stages}\n\nSeconds of each cell on one core; "
        f"cells of one training share it:\n\n{cells}"
    )
