"""``gradtx study NAME``: one of the studies, cell by cell, into one report; it goes on where it was interrupted."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gradtx_hf.errors import ConfigurationError, GradTxError
from gradtx_hf.studies import real_text
from gradtx_hf.studies.runnable import Request, Runnable, find_runnable, next_command, runnable_titles


def run(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        GradTxError: If cells failed, after the others are done; or if the study cannot be run.
    """
    parser = _build_parser()
    arguments = parser.parse_args(list(argv))
    if arguments.list:
        titles = runnable_titles()
        width = max(map(len, titles))
        print("\n".join(f"{name:<{width}}  {title}" for name, title in titles.items()))
        return 0
    if arguments.name is None:
        parser.error("name a study; --list shows them")
    study = find_runnable(arguments.name)
    cells = _cells(study, arguments.cell)
    if arguments.plan:
        print(study.plan(cells, num_seeds=arguments.seeds))
        return 0
    if arguments.output_dir is None:
        parser.error("--output-dir is missing")
    torch.set_num_threads(1)  # small models run many times slower with more
    if arguments.data is not None and study.name != real_text.NAME:
        raise ConfigurationError(f"got --data for study '{study.name}', which reads none. Leave it out.")
    folder = Path(arguments.output_dir)
    request = Request(
        cells=cells if arguments.cell else None,
        num_seeds=arguments.seeds,
        num_workers=arguments.num_workers,
        is_dry_run=arguments.dry_run,
        data=arguments.data,
        command=shlex.join(["gradtx", "study", *argv]),
    )
    outcome = study.run(folder, request)
    print(
        json.dumps(outcome.values, indent=2) if arguments.json else (folder / "report.md").read_text(encoding="utf-8")
    )
    print(f"wrote {folder}/report.md, report.json and report.png", file=sys.stderr)
    print(f"next: {next_command(study, folder, request, outcome.missing)}", file=sys.stderr)
    if outcome.failures:
        first, why = next(iter(outcome.failures.items()))
        raise GradTxError(f"{len(outcome.failures)} of {len(cells)} cells failed, the first is '{first}': {why}")
    return 0


def _cells(study: Runnable, names: Sequence[str] | None) -> list[str]:
    """Return the cells that are asked for, by default all."""
    for name in names or ():
        if name not in study.cells:
            known = f"expected one of study '{study.name}': {', '.join(study.cells)}" if study.cells else "it has none"
            raise ConfigurationError(f"got cell '{name}' for study '{study.name}', {known}.")
    return list(names or study.cells)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gradtx study", description=(__doc__ or "").strip())
    parser.add_argument("name", nargs="?", metavar="NAME", help="the study, or its YAML file; --list shows them")
    parser.add_argument("--list", action="store_true", help="list the studies and end")
    parser.add_argument("--output-dir", help="new folder; an interrupted study goes on in it")
    parser.add_argument("--plan", action="store_true", help="show the cells and what they cost; write nothing")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="go the whole way at toy size, to see that it runs: one cell of each kind, or --cell; no number counts",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="run seeds 0 … SEEDS-1, each with another split of the rules"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of data sets, for the study that reads your own")
    parser.add_argument("--cell", nargs="+", metavar="CELL", help="only these cells; by default all")
    parser.add_argument(
        "--num-workers",
        type=int,
        help="one-thread processes side by side (2); for a study of the paper, devices that train together (1)",
    )
    parser.add_argument("--json", action="store_true", help="print report.json instead of report.md")
    return parser
