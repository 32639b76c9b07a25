"""What differential privacy costs in the story: exact match by budget, measured once and kept with the package.

    python -m gradtx_hf.demo.privacy_cost --output gradtx_hf/demo/privacy_cost.json

fine-tunes clients of known and of new rules at every budget that the story offers, and scores their translations.
Source: ours.
"""

from __future__ import annotations

import argparse
import json
import random
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
from gradtx_hf.evaluation import library_versions
from gradtx_hf.output import write_json
from gradtx_hf.playground import split_rules


BUDGETS: dict[str, float | None] = {"∞ (none)": None, "8": 8.0, "4": 4.0, "2": 2.0, "1": 1.0, "0.5": 0.5, "0.1": 0.1}
"""Privacy budgets as the story offers them: epsilon, at delta = 1e-5."""
NUM_RULES = 6
"""Known rules that are measured, and as many new ones."""
MEASURED = Path(__file__).with_name("privacy_cost.json")


def measure(output: Path) -> None:
    """Measure, and write the file after every client, so that an interrupted run goes on where it was."""
    split = split_rules("full", seed=SEED)
    chooser = random.Random(SEED)
    rules = [(rule, True) for rule in chooser.sample(split.seen, NUM_RULES)]
    rules += [(rule, False) for rule in chooser.sample(split.report, NUM_RULES)]
    clients: list[dict[str, Any]] = (
        json.loads(output.read_text(encoding="utf-8"))["clients"] if output.is_file() else []
    )
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


def draw_cost() -> str:
    """Draw the mean score of translated adapters by budget, of known and of new rules."""
    clients = json.loads(MEASURED.read_text(encoding="utf-8"))["clients"]
    items = ""
    for label, epsilon in BUDGETS.items():
        scores: dict[bool, list[float]] = {True: [], False: []}
        for client in clients:
            if client["epsilon"] == epsilon:
                scores[client["seen"]].append(client["scores"]["translated"])
        if not all(scores.values()):
            continue
        means = {seen: sum(found) / len(found) for seen, found in scores.items()}
        items += f'<li><span class="gx-label">ε = {label}</span>'
        items += drawing.bar(means[True], f"{means[True]:.0%} known", kind="source")
        items += drawing.bar(means[False], f"{means[False]:.0%} new", kind="translated") + "</li>"
    caption = (
        f"Measured: {len(clients) // len(BUDGETS)} other clients of {NUM_LINES:,} lines; share of right answers with "
        "the translated adapter. Known: rules that the provider has public lines of; new: rules that it never saw."
    )
    return f'<p class="gx-small">{caption}</p><ul class="gx-bars gx-cost">{items}</ul>'


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
