"""``gradtx train``: train a translator on a curated store; every argument of transformers' Trainer is a flag too.

In N processes: ``accelerate launch --multi_gpu --num_processes N -m gradtx_hf.cli.main train ...``, or ``torchrun
--nproc_per_node N -m gradtx_hf.cli.main train ...``; without a GPU the same, with ``use_cpu: true``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.translation import TRAINING_FILE


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments, is_json = parse_into(TranslatorArguments, argv, command="train", description=(__doc__ or "").strip())
    translator = train(arguments)
    if arguments.process_index > 0:  # one of several processes, of which the main one prints
        return 0
    recorded = json.loads((Path(translator.name) / TRAINING_FILE).read_text(encoding="utf-8"))
    errors = {part: values["metrics"] for part, values in recorded["parts"].items()}
    values = {"translator": translator.name, "start_distance_limit": translator.start_distance_limit}
    print(json.dumps(values | {"validation": errors}, indent=2) if is_json else _as_text(translator.name, errors))
    print(f"next: gradtx inspect {translator.name}", file=sys.stderr)
    return 0


def _as_text(folder: str, errors: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"translator: {folder}"]
    for part, metrics in errors.items():
        names = [name for name in metrics if "error" in name] or [name for name in metrics if "loss" in name]
        shown = [f"{name.removeprefix('eval_')} {metrics[name]:.4g}" for name in names]
        lines += [f"validation of {part}: {', '.join(shown)}"] if shown else []
    return "\n".join(lines)
