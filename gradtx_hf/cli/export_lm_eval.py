"""``gradtx export-lm-eval``: our tasks as files of lm-evaluation-harness, with the same prompts and scores."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from gradtx_hf.evaluation.lm_eval import TAG, export_tasks
from gradtx_hf.tasks import task_names


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx export-lm-eval", description=(__doc__ or "").strip())
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"any of {', '.join(task_names())}; by default all")
    parser.add_argument("--output-dir", required=True, help="new folder, for lm_eval's --include_path")
    parser.add_argument("--json", action="store_true", help="print the names as JSON")
    arguments = parser.parse_args(list(argv))
    names = export_tasks(arguments.output_dir, arguments.tasks)
    print(json.dumps(names) if arguments.json else "\n".join(names))
    print(f"wrote {arguments.output_dir}; *_plain are for models without a chat template", file=sys.stderr)
    print(
        f"next: lm_eval --include_path {arguments.output_dir} --tasks {TAG} --apply_chat_template --model hf "
        "--model_args pretrained=BASE,peft=ADAPTER",
        file=sys.stderr,
    )
    return 0
