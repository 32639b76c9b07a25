"""``gradtx quickstart``: the whole story on the embedded pair of models, in minutes on two cores."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gradtx_hf.studies.quickstart import run_quickstart


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx quickstart", description=(__doc__ or "").strip())
    parser.add_argument("--output-dir", required=True, help="new folder; an interrupted quickstart goes on in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, the data and every run")
    default_workers = min(2, os.cpu_count() or 1)
    parser.add_argument("--num-workers", type=int, default=default_workers, help="one-thread processes side by side")
    parser.add_argument("--json", action="store_true", help="print report.json instead of report.md")
    arguments = parser.parse_args(list(argv))
    torch.set_num_threads(1)  # small models run many times slower with more
    run_quickstart(
        arguments.output_dir,
        seed=arguments.seed,
        num_workers=arguments.num_workers,
        command=shlex.join(["gradtx", "quickstart", *argv]),
    )
    folder = Path(arguments.output_dir)
    print((folder / ("report.json" if arguments.json else "report.md")).read_text(encoding="utf-8"))
    print(f"next: gradtx inspect {folder / 'client_adapter'}   # what left the client", file=sys.stderr)
    print(
        f"      gradtx translate {folder / 'client_adapter'} --translator {folder / 'translator'} --output-dir adapter",
        file=sys.stderr,
    )
    return 0
