"""``gradtx evaluate``: score translated adapters beside every control; writes report.json, report.md and report.png."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.run import evaluate


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments, is_json = parse_into(EvaluationArguments, argv, command="evaluate", description=(__doc__ or "").strip())
    report = evaluate(arguments, command=shlex.join(["gradtx", "evaluate", *argv]))
    if is_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print((Path(arguments.output_dir) / "report.md").read_text(encoding="utf-8"))
    print(f"wrote {arguments.output_dir}/report.md, report.json and report.png", file=sys.stderr)
    return 0
