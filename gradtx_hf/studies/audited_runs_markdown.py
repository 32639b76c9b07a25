"""The report of audited runs as Markdown: the verdict, the self-test, and a row for each run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradtx_hf.hub.markdown import markdown_table


NAME = "audited_runs"
SELF_TEST = "self_test"


def render_markdown(report: Mapping[str, Any]) -> str:
    """Return the text of audited_runs.md; the plot stands beside it."""
    test = report["runs"][SELF_TEST]
    settings = report["settings"]
    lines = [f"- {aim}: {'yes' if met else '**no**'}" for aim, met in report["aims_met"].items()]
    shares = ", ".join(f"{share:.3f}" for share in test["noise_shares"])
    return "\n\n".join(
        [
            "# Audited runs",
            f"{settings['num_runs']} private runs claim ε = {settings['epsilon']:g} at δ = {settings['delta']:g}. "
            f"Their largest lower bound is **{report['largest_bound']:.3f}**, the mean {report['mean_bound']:.3f}, "
            f"each at confidence {settings['confidence_of_each']:.5f}: all hold together with 95 %.",
            "\n".join(lines),
            f"![Lower bounds of epsilon]({NAME}.png)",
            f"Gradient self-test: sums off by {test['sum_error']:.1e}, one row changes a sum by at most "
            f"{test['sensitivity']:.6f} C, noise of each step over sigma C {shares} (1 ± "
            f"{test['noise_tolerance']:.3f} expected).",
            run_table(report["runs"]),
            "Gradient canaries enter behind the clipping: they test noise and sampling; the self-test tests the "
            "clipping. Text canaries pass through both, but the adapter alone tells less. A bound below the claim "
            "proves nothing.",
        ]
    ) + "\n"  # fmt: skip


def run_table(runs: Mapping[str, Any]) -> str:
    """Return a Markdown table of audited runs."""
    rows = []
    for name, run in runs.items():
        if name == SELF_TEST:
            continue
        stated, bound, membership = run["privacy"], run["bound"], run["membership"]
        rows.append(
            [
                name.replace("_", " "),
                "∞ (not private)" if stated is None else f"{stated['epsilon']:.3f}",
                "-" if stated is None else f"{stated['noise_multiplier']:.3f}",
                f"{bound['epsilon']:.3f}",
                f"{bound['num_correct']} of {bound['num_guesses']} ({bound['num_canaries']} canaries)",
                f"{membership['auc']:.3f} [{membership['auc_low']:.3f}, {membership['auc_high']:.3f}]",
                f"{run['seconds']:.1f}",
            ]
        )
    return markdown_table(["run", "claimed ε", "noise", "lower bound of ε", "right guesses", "AUC", "seconds"], rows)
