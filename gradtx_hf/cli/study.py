"""``gradtx study NAME``: one of the studies, cell by cell, into one report; it goes on where it was interrupted."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gradtx_hf.errors import GradTxError
from gradtx_hf.studies.catalogue import STUDIES, find_study
from gradtx_hf.studies.run_study import run_study
from gradtx_hf.studies.study_plan import render_plan
from gradtx_hf.studies.study_report import StudyReport, command_of


def run(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        GradTxError: If cells failed, after the others are done; or if the study cannot be run.
    """
    parser = _build_parser()
    arguments = parser.parse_args(list(argv))
    if arguments.list:
        width = max(map(len, STUDIES))
        print("\n".join(f"{study.name:<{width}}  {study.title}" for study in STUDIES.values()))
        return 0
    if arguments.name is None:
        parser.error("name a study; --list shows them")
    study = find_study(arguments.name)
    cells = [study.cell(name) for name in arguments.cell or [cell.name for cell in study.cells]]
    if arguments.dry_run:
        print(render_plan(study, cells, num_seeds=arguments.seeds))
        return 0
    if arguments.output_dir is None:
        parser.error("--output-dir is missing")
    torch.set_num_threads(1)  # small models run many times slower with more
    report = run_study(
        study,
        arguments.output_dir,
        num_seeds=arguments.seeds,
        cells=arguments.cell,
        num_workers=arguments.num_workers,
        command=shlex.join(["gradtx", "study", *argv]),
    )
    folder = Path(arguments.output_dir)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print((folder / "report.md").read_text(encoding="utf-8"))
    print(f"wrote {folder}/report.md, report.json and report.png", file=sys.stderr)
    print(_next_step(report, folder), file=sys.stderr)
    if report.failures:
        first, why = next(iter(report.failures.items()))
        raise GradTxError(f"{len(report.failures)} of {len(cells)} cells failed, the first is '{first}': {why}")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gradtx study", description=(__doc__ or "").strip())
    parser.add_argument("name", nargs="?", metavar="NAME", help="the study; --list shows them")
    parser.add_argument("--list", action="store_true", help="list the studies and end")
    parser.add_argument("--output-dir", help="new folder; an interrupted study goes on in it")
    parser.add_argument("--dry-run", action="store_true", help="show the cells and what they cost; write nothing")
    parser.add_argument(
        "--seeds", type=int, default=1, help="run seeds 0 … SEEDS-1, each with another split of the rules"
    )
    parser.add_argument("--cell", nargs="+", metavar="CELL", help="only these cells; by default all")
    default_workers = min(2, os.cpu_count() or 1)
    parser.add_argument("--num-workers", type=int, default=default_workers, help="one-thread processes side by side")
    parser.add_argument("--json", action="store_true", help="print report.json instead of report.md")
    return parser


def _next_step(report: StudyReport, folder: Path) -> str:
    """Return what to run next: the cells that are missing, or more seeds."""
    missing = [cell.cell.name for cell in report.cells if cell.missing]
    if missing:
        command = command_of(report.study, folder, cells=missing, num_seeds=report.num_seeds)
        return f"next: {command}   # what is missing"
    more = command_of(report.study, folder, cells=[], num_seeds=max(3, report.num_seeds + 1))
    return f"next: {more}   # more seeds"
