"""The report of study ``baselines`` as Markdown: who leads and at what price, first. Source: ours."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gradtx_hf.evaluation.headline import format_score, group_title, headline
from gradtx_hf.evaluation.markdown import format_estimate, format_share
from gradtx_hf.evaluation.method_settings import SOURCE_BEST
from gradtx_hf.evaluation.methods import SOURCE_CLIENT, TRANSLATED, method_of
from gradtx_hf.evaluation.needs import NEEDS, MethodNeeds
from gradtx_hf.evaluation.summary import GroupSummary
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.baseline_results import BaselinesReport


GROUPS = ("seen", "unseen")
SAME_ADAPTER = ("proxy_tuning_same", "distilled_same")
"""Rivals that copy the small model whose adapter is translated."""
TIE = 1e-9


def render_baselines(report: BaselinesReport, *, title: str, question: str, plot_file: str | None) -> str:
    """Return the text of report.md.

    Args:
        report: The report.
        title: The study's title.
        question: What it asks.
        plot_file: The plot's path as seen from the Markdown file; None for no picture.
    """
    found = report.report
    config = found.to_json()["config"]
    sections = [
        f"# {title}",
        question,
        "\n\n".join(verdict(report, group) for group in GROUPS),
        f"![Scores of all methods]({plot_file})" if plot_file else "",
        "## Methods\n\n" + methods_table(report),
        "## Refinement, step by step\n\n" + curve_table(report),
        "## Against every control\n\n" + "\n\n".join(headline(found, group) for group in GROUPS),
        "## Seconds\n\n" + markdown_table(["phase", "seconds"], [[k, f"{v:.1f}"] for k, v in found.seconds.items()]),
        "## Configuration\n\n```json\n" + json.dumps(config, indent=2, ensure_ascii=False) + "\n```",
        "## Versions\n\n" + markdown_table(["library", "version"], [[k, v] for k, v in found.versions.items()]),
        f"Written with `{found.command}`." if found.command else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def verdict(report: BaselinesReport, group: str) -> str:
    """Say whether the translator is first among methods of its kind, and which others do better, and why.

    Args:
        report: The report.
        group: ``seen`` or ``unseen``.
    """
    summary = report.report.summary[group]
    own = summary.methods[TRANSLATED].score.mean
    means = {name: method.score.mean for name, method in summary.methods.items() if name in NEEDS}
    alike = {name: mean for name, mean in means.items() if NEEDS[name].is_of_the_translators_kind}
    better = {name: mean for name, mean in alike.items() if name != TRANSLATED and mean >= own - TIE}
    kind = "methods with no private data, no fine-tuning of the target for a client and one model to decode with"
    first = (
        f"the translated adapter, {format_score(own)} exact match, is first among the {kind}"
        if not better
        else f"**{_listed(better)} did as well as the translated adapter ({format_score(own)}) or better**, "
        f"among the {kind}"
    )
    of_same = {name: means[name] for name in (SOURCE_CLIENT, *SAME_ADAPTER)}
    sentences = [
        f"{group_title(group, num_clients=summary.num_clients)}: {first}.",
        f"From the very adapter that is translated, others get less: {_listed(of_same)}."
        if max(of_same.values()) < own - TIE
        else f"**Others get as much from the very adapter that is translated: {_listed(of_same)}.**",
    ]
    dearer = {
        name: mean
        for name, mean in means.items()
        if mean >= own - TIE and name not in alike and NEEDS[name].need in ("adapter", "private inputs")
    }
    if dearer:
        prices = ", ".join(f"{method_of(n).short} ({format_score(m)}; {price(NEEDS[n])})" for n, m in dearer.items())
        sentences.append(f"As good or better at a higher price: {prices}. {_why(summary, own)}")
    return " ".join(sentences)


def price(needs: MethodNeeds) -> str:
    """Return what a method costs beyond a translation, in a few words."""
    words = [
        "private inputs at the provider" if needs.need == "private inputs" else "",
        "the target fine-tuned for each client" if needs.trains_target else "",
        "three models to decode with" if needs.decoding == "three" else "",
    ]
    return " and ".join(word for word in words if word)


def methods_table(report: BaselinesReport) -> str:
    """Return all methods with what they need and score, in the order of the report."""
    found = report.report
    groups = [group for group in GROUPS if group in found.summary]
    head = ["method", "what the provider has of the client", "target steps for each client", "decoding cost"]
    for group in groups:
        head += [group_title(group, num_clients=found.summary[group].num_clients), "gain recovered"]
    rows = []
    for name in found.summary["all"].methods:
        label = method_of(name).label
        needs = NEEDS[name]
        row = [
            f"**{label}**" if name == TRANSLATED else label,
            needs.need,
            str(_target_steps(report, needs)),
            _decoding_cost(report, needs),
        ]
        for group in groups:
            method = found.summary[group].methods[name]
            row += [format_estimate(method.score), format_share(method.gain_recovered)]
        rows.append(row)
    cost = report.decoding
    note = (
        "Metric: exact match. Means over clients, in brackets 95 % bootstrap intervals over pairs of study seed and "
        "task. Decoding cost: operations per token in units of the target's own, with its adapter merged. Proxy tuning "
        f"took {cost.three_seconds:.1f} times the target's processor time. Rivals that copy the small model's answers "
        "copy those of the client fine-tuned for itself, unless their line says otherwise; on private inputs, of one "
        "that was fine-tuned so on half of the lines."
    )
    return f"{note}\n\n{markdown_table(head, rows)}"


def curve_table(report: BaselinesReport) -> str:
    """Return mean scores step by step, and after how many steps each start is as good as the translation itself."""
    note = "Exact match on part of the held-out lines, after so many steps of distillation from the source client."
    tables = []
    for group, curves in report.curves.items():
        steps = list(next(iter(curves.values()), {}))
        rows = [
            [method_of(name).label, *(format_score(curve[step]) for step in steps)] for name, curve in curves.items()
        ]
        tables.append(
            f"{group.capitalize()} tasks. {steps_saved(curves)}\n\n"
            + markdown_table(["start", *(f"{step} steps" for step in steps)], rows)
        )
    return "\n\n".join([note, *tables])


def steps_saved(curves: Mapping[str, Mapping[int, float]]) -> str:
    """Say after how many steps from zero, and from the mean, the translation is reached that takes none.

    Args:
        curves: Method by distillation to step to mean score.
    """
    translation = curves["refined_translation"][0]
    parts = []
    for name, start in (("distilled", "zero"), ("refined_mean", "the mean shadow update")):
        reached = [step for step, value in curves[name].items() if value >= translation - TIE]
        when = f"after {reached[0]} steps" if reached else f"not within {max(curves[name])} steps"
        parts.append(f"from {start} {when}")
    last = max(curves["refined_translation"])
    gained = curves["refined_translation"][last] - translation
    return (
        f"The translation scores {format_score(translation)} before any step; distillation gets there "
        f"{' and '.join(parts)}. {last} steps change the translation's score by {gained:+.3f}."
    )


def _why(summary: GroupSummary, own: float) -> str:
    """Say whence a rival that copies the small model has its answers."""
    best = summary.methods[SOURCE_BEST].score.mean
    wanted = summary.methods[SOURCE_CLIENT].score.mean
    if best >= own - TIE:
        return (
            f"They copy a small model that does the task itself ({format_score(best)} when fine-tuned for itself, "
            f"{format_score(wanted)} as the translator wants it)."
        )
    return f"They copy a small model that scores {format_score(best)} itself, and correct it by what the target knows."


def _target_steps(report: BaselinesReport, needs: MethodNeeds) -> int:
    settings = report.report.config["study"]["settings"]
    steps = {
        "": 0,
        "weak": settings["weak_recipe"]["num_steps"],
        "refinement": settings["refinement_recipe"]["num_steps"],
        "ceiling": settings["num_ceiling_steps"],
    }
    return int(steps[needs.trains_target])


def _decoding_cost(report: BaselinesReport, needs: MethodNeeds) -> str:
    cost = report.decoding
    return {"target": "1", "source": f"{cost.source_flops:.2f}", "three": f"{cost.three_flops:.2f}"}[needs.decoding]


def _listed(means: Mapping[str, float]) -> str:
    return ", ".join(f"{method_of(name).short} ({format_score(mean)})" for name, mean in means.items())
