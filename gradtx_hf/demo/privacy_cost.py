"""What differential privacy costs in the story: exact match by budget, measured once and kept with the package.

    python -m gradtx_hf.demo.privacy_cost --output gradtx_hf/demo/privacy_cost.json

fine-tunes clients of known and of new rules at every budget that the story offers, and scores their translations.
Source: ours.
"""

from __future__ import annotations

import argparse
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gradtx_hf.demo import drawing
from gradtx_hf.demo.story import (
    NUM_HELD_OUT,
    NUM_LINES,
    NUM_PARTS,
    PRIVATE_BATCH,
    SEED,
    ask_all,
    embedded_translator,
    fine_tune_source,
    rule_data,
    translate,
)
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation import library_versions
from gradtx_hf.output import write_json
from gradtx_hf.playground import split_rules


NO_PRIVACY = "∞"
BUDGETS: dict[str, float | None] = {NO_PRIVACY: None, "8": 8.0, "4": 4.0, "2": 2.0, "1": 1.0, "0.5": 0.5, "0.1": 0.1}
"""Privacy budgets as the story offers them: epsilon, at delta = 1e-5."""
LEVELS = list(BUDGETS)
"""What the slider's steps stand for, from no privacy to the most."""
NUM_RULES = 6
"""Known rules that are measured, and as many new ones."""
MEASURED = Path(__file__).with_name("privacy_cost.json")


def measure(output: Path) -> None:
    """Measure, and write the file after every client, so that an interrupted run goes on where it was."""
    split = split_rules("full", seed=SEED)
    chooser = random.Random(SEED)
    rules = [(rule, True) for rule in chooser.sample(split.seen, NUM_RULES)]
    rules += [(rule, False) for rule in chooser.sample(split.report, NUM_RULES)]
    clients = load_measured(output) if output.is_file() else []
    known = {(client["rule"], client["epsilon"]) for client in clients}
    todo = [(rule, seen, epsilon) for epsilon in BUDGETS.values() for rule, seen in rules]
    for rule, seen, epsilon in tqdm(todo, desc="clients"):
        if (rule.name, epsilon) in known:
            continue
        data = rule_data(rule)
        run = fine_tune_source(data, epsilon=epsilon)
        translated = translate(run.adapter)
        answers = ask_all(data, source=run.adapter.tensors, translated=translated.tensors, inputs=())
        scores = {name: found.score for name, found in answers.items()}
        clients.append(
            {
                "rule": rule.name,
                "seen": seen,
                "epsilon": epsilon,
                "scores": scores,
                "input_distance": translated.report["input_distance"],
                "seconds": round(run.seconds, 1),
            }
        )
        write_json(output, {"config": _config(), "versions": library_versions(), "clients": clients})


def load_measured(file: Path) -> list[dict[str, Any]]:
    """Return the clients of a file that ``measure`` wrote."""
    clients: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["clients"]
    return clients


def budget_of(level: float) -> str:
    """Return the budget, as ``BUDGETS`` calls it, that a step of the slider stands for.

    Raises:
        ConfigurationError: If there is no such step.
    """
    if level not in range(len(LEVELS)):
        raise ConfigurationError(
            f"got privacy level {level}, expected a whole number from 0 (no privacy) to {len(LEVELS) - 1} "
            f"(epsilon {LEVELS[-1]})."
        )
    return LEVELS[int(level)]


def draw_chosen(budget: str) -> str:
    """Draw the chosen budget, and what it was measured to cost."""
    free, paid = mean_scores()[NO_PRIVACY], mean_scores()[budget]
    title = "ε = ∞: no privacy" if budget == NO_PRIVACY else f"ε = {budget}"
    shown = {
        name: f"{paid[seen]:.0%} right"
        + ("" if budget == NO_PRIVACY else f" ({round(100 * paid[seen]) - round(100 * free[seen]):+} points)")
        for name, seen in (("rules that the provider knows", True), ("rules that are new to it", False))
    }
    return (
        f'<div class="gx-chosen" role="status"><p class="gx-epsilon">{title}</p>{drawing.facts(shown)}'
        f'<p class="gx-small">Measured: translated adapters of {NUM_RULES} other clients of each kind.</p></div>'
    )


def draw_cost(chosen: str = NO_PRIVACY) -> str:
    """Draw the mean score of translated adapters by budget, of known and of new rules.

    Args:
        chosen: The budget that stands out.
    """
    items = ""
    for label, means in mean_scores().items():
        items += f'<li class="{"gx-main" if label == chosen else ""}"><span class="gx-label">ε = {label}</span>'
        items += drawing.bar(means[True], f"{means[True]:.0%} known", kind="source")
        items += drawing.bar(means[False], f"{means[False]:.0%} new", kind="translated") + "</li>"
    caption = (
        f"{2 * NUM_RULES} other clients of {NUM_LINES:,} lines; share of right answers with the translated adapter. "
        "Known: rules that the provider has public lines of; new: rules that it never saw."
    )
    return f'<p class="gx-small">{caption}</p><ul class="gx-bars gx-cost">{items}</ul>'


@cache
def mean_scores() -> dict[str, dict[bool, float]]:
    """Return the measured mean score of translated adapters: budget to whether the rule is known to the score."""
    clients = load_measured(MEASURED)
    means: dict[str, dict[bool, float]] = {}
    for label, epsilon in BUDGETS.items():
        means[label] = {}
        for seen in (True, False):
            found = [c["scores"]["translated"] for c in clients if (c["epsilon"], c["seen"]) == (epsilon, seen)]
            means[label][seen] = sum(found) / len(found)
    return means


def _config() -> dict[str, Any]:
    return {
        "seed": SEED,
        "translator": embedded_translator().name,
        "num_lines": NUM_LINES,
        "num_held_out": NUM_HELD_OUT,
        "num_parts": NUM_PARTS,
        "private_batch": PRIVATE_BATCH,
        "num_rules": NUM_RULES,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=MEASURED)
    measure(parser.parse_args().output)


if __name__ == "__main__":
    main()
