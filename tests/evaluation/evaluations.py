"""Evaluations of the tiny story's translator, store and clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradtx_hf.evaluation.arguments import EvaluationArguments
from tests.cli.story import UNSEEN, story
from tests.curation.world import RULES


def make_arguments(output_dir: Path, *, kind: str = "data", **changes: object) -> EvaluationArguments:
    clients = []
    for seed, rule in enumerate((*RULES, UNSEEN)):
        path = getattr(story(), kind)(rule)
        clients.append(
            {
                "task": rule.name,
                "seen": rule != UNSEEN,
                "seed": seed,
                "train": {"path": path, "split": "train[:16]"},
                "test": [{"path": path, "split": "train[16:]", "num_samples": 8}],
            }
        )
    values: dict[str, Any] = {
        "translator": str(story().translator),
        "store": str(story().store),
        "output_dir": str(output_dir),
        "clients": clients,
        "max_new_tokens": 8,
        "max_length": 32,
        **changes,
    }
    return EvaluationArguments(**values)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report
