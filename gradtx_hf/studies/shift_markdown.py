"""Report of study ``shift`` as Markdown: what foretells the gain and what does not, and the numbers. Source: ours."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gradtx_hf.evaluation import summarise
from gradtx_hf.evaluation.markdown import format_estimate, format_share
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED, method_of
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.clients import SHUFFLED_INPUT
from gradtx_hf.studies.shift_results import MEASURES, SERIES, RankCorrelation, ShiftPoint, ShiftStudyReport


METHODS = (SOURCE_CLIENT, TARGET_UNTOUCHED, SHUFFLED_INPUT, TRANSLATED, CEILING)
SIGNIFICANT = 0.05


def render_shift_study(report: ShiftStudyReport, *, title: str, question: str, plot_file: str | None) -> str:
    """Return the text of report.md.

    Args:
        report: The report.
        title: The study's title.
        question: What it asks.
        plot_file: The plot's path as seen from the Markdown file; None for no picture.
    """
    num_pairs = len({point.pair for point in report.points})
    sections = [
        f"# {title}",
        question,
        verdict(report),
        f"![{title}]({plot_file})" if plot_file else "",
        "## Conditions\n\n" + condition_table(report.points),
        f"Means over {num_pairs} clients, each of its own rules; in brackets 95 % bootstrap intervals over them. AUC "
        "and KL, a lower bound in nats: see `gradtx shift`. Found: clients with p <= 0.05. Input distance: geometric "
        f"mean; the translator warns of more than {report.points[0].input_distance_limit:.2f}. Scores are exact "
        "match. Shuffled input: another client's adapter of the same condition, translated.",
        "## Rank correlation with the gain recovered\n\n" + correlation_table(report),
        "Spearman's; negative: the larger the measure, the smaller the gain. In brackets 95 % intervals by resampling "
        "pairs of rules. The series of letters begin at the same rules with letters alike.",
        "## Cost\n\n"
        + markdown_table(
            ["stage", "seconds"], [[name, f"{value:.0f}"] for name, value in report.report.seconds.items()]
        ),
        "## Configuration\n\n```json\n"
        + json.dumps(report.to_json()["config"], indent=2, ensure_ascii=False)
        + "\n```",
        f"Written with `{report.report.command}`." if report.report.command else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def verdict(report: ShiftStudyReport) -> str:
    """Return whether the texts' shift and the adapter's distance foretell the gain: over all clients and by series."""
    names = {"auc": "the shift of the texts (AUC)", "input_distance": "the adapter's input distance"}
    where = {"all": "Over all clients", **{series: f"Within '{series}'" for series in SERIES[1:]}}
    return "\n".join(
        f"- {where[series]}: {name} {_foretells(row[measure])} Rank correlation {_format(row[measure])}."
        for measure, name in names.items()
        for series, row in report.correlations.items()
    )


def condition_table(points: Sequence[ShiftPoint]) -> str:
    """Return a row per condition: what was measured, what was scored, what was recovered."""
    rows = []
    for condition in dict.fromkeys(point.condition for point in points):
        chosen = [point for point in points if point.condition == condition]
        methods = summarise([point.scores for point in chosen], higher_is_better=True)["all"].methods
        num_found = sum(point.p_value <= SIGNIFICANT for point in chosen)
        distance = 1.0
        for point in chosen:
            distance *= point.input_distance ** (1 / len(chosen))
        rows.append(
            [
                condition.series,
                condition.label,
                f"{sum(point.auc for point in chosen) / len(chosen):.3f}",
                f"{sum(point.kl for point in chosen) / len(chosen):.2f}",
                f"{num_found} of {len(chosen)}",
                f"{distance:.2f}",
                *(format_estimate(methods[name].score) for name in METHODS),
                format_share(methods[TRANSLATED].gain_recovered),
            ]
        )
    head = ["series", "clients' data", "AUC", "KL", "found", "input distance"]
    return markdown_table([*head, *(method_of(name).label for name in METHODS), "gain recovered"], rows)


def correlation_table(report: ShiftStudyReport) -> str:
    """Return a row per series, a column per measure."""
    rows = [
        [series, str(row["auc"].num_clients), *(_format(row[measure]) for measure in MEASURES)]
        for series, row in report.correlations.items()
    ]
    return markdown_table(["series", "clients", *MEASURES.values()], rows)


def _foretells(found: RankCorrelation) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "was measured on too few clients to say."
    if found.low <= 0 <= found.high:
        return "**does not foretell the gain**: the interval contains 0."
    if found.value > 0:
        return "**misleads**: clients that lie farther recover more."
    return "foretells the gain: clients that lie farther recover less."


def _format(found: RankCorrelation) -> str:
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
