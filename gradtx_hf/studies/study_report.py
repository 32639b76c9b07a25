"""StudyReport: what all cells of a study scored, beside the controls; report.json is its file.

The file keeps the contract of every report (``gradtx_hf.evaluation.report``): the main cell is ``translated``, and the
cells on the same clients are its rivals. ``cells`` holds every cell, run or not. Source: ours.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gradtx_hf.evaluation import ClientScores, GroupSummary, MethodSummary, Report, library_versions
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.evaluation.seconds import read_seconds
from gradtx_hf.studies.cells import Cell, Study, World
from gradtx_hf.studies.clients import merged
from gradtx_hf.studies.results import CellResult, pooled, read_result
from gradtx_hf.studies.world import Place


REFERENCES = (
    SOURCE_CLIENT,
    TARGET_UNTOUCHED,
    "public_finetune",
    "shadow_mean",
    "nearest_shadow",
    "ridge",
    CEILING,
)
"""The controls that a study's table shows, in its order."""
GROUPS = ("seen", "unseen")


@dataclass(frozen=True)
class CellReport:
    """One cell over the seeds that it was run with.

    Attributes:
        cell: The cell.
        results: Its results.
        missing: Study seeds without a result.
        failure: Why it failed in this run, one line; None if it did not.
        command: The command that runs what is missing.
    """

    cell: Cell
    results: tuple[CellResult, ...]
    missing: tuple[int, ...]
    failure: str | None
    command: str
    summary: Mapping[str, GroupSummary] = field(init=False)

    def __post_init__(self) -> None:
        clients = {result.seed: result.clients for result in self.results}
        summary = pooled(clients, config={}).summary if clients else {}
        object.__setattr__(self, "summary", summary)

    @property
    def status(self) -> str:
        """``done``, ``failed``, ``partly done`` or ``not run``."""
        if self.failure is not None:
            return "failed"
        if not self.missing:
            return "done"
        return "partly done" if self.results else "not run"

    def method(self, group: str, name: str = TRANSLATED) -> MethodSummary | None:
        """Return what a method scored on a group of clients; None where it has no score."""
        return self.summary[group].methods.get(name) if group in self.summary else None

    def to_json(self) -> dict[str, Any]:
        """Return the cell's entry in report.json."""
        return {
            "name": self.cell.name,
            "label": self.cell.label,
            "x": self.cell.x or None,
            "series": self.cell.series or None,
            "panel": self.cell.panel or None,
            "changes": {"world": self.cell.world, "training": self.cell.training}
            | ({"client_noise": self.cell.client_noise} if self.cell.client_noise else {})
            | ({"clients": self.cell.clients} if self.cell.clients else {}),
            "status": self.status,
            "failure": self.failure,
            "command": None if self.status == "done" else self.command,
            "study_seeds": [result.seed for result in self.results],
            "summary": {
                group: {name: asdict(method) for name, method in summary.methods.items()}
                for group, summary in self.summary.items()
            },
            "seconds": [result.values["seconds"] for result in self.results],
            "num_training_updates": [result.values["num_training_updates"] for result in self.results],
            "off_the_map": [result.values["off_the_map"] for result in self.results],
        }


@dataclass(frozen=True)
class StudyReport:
    """A study's report.

    Attributes:
        study: The study.
        cells: Its cells, run or not.
        num_seeds: Study seeds 0 … num_seeds - 1.
        seconds: Stage to wall-clock time in seconds, over all runs of the command in this folder.
        command: The command line that made it.
    """

    study: Study
    cells: tuple[CellReport, ...]
    num_seeds: int
    seconds: Mapping[str, float]
    command: str

    @classmethod
    def read(
        cls,
        study: Study,
        folder: Path,
        *,
        num_seeds: int,
        failures: Mapping[tuple[str, int], str],
        command: str,
    ) -> StudyReport:
        """Read what is done in a study's folder.

        Args:
            study: The study.
            folder: Its folder.
            num_seeds: Study seeds that are asked for; more that were run before are shown too.
            failures: (cell, seed) to why it failed in this run.
            command: The command line.
        """
        seeds = {int(path.name.removeprefix("seed-")) for path in (folder / "cells").glob("seed-*")}
        seeds |= set(range(num_seeds))
        cells = []
        for cell in study.cells:
            found = {seed: read_result(study, cell, Place(folder, seed)) for seed in sorted(seeds)}
            whys = [f"seed {seed}: {failures[cell.name, seed]}" for seed in found if (cell.name, seed) in failures]
            cells.append(
                CellReport(
                    cell,
                    tuple(result for result in found.values() if result is not None),
                    tuple(seed for seed, result in found.items() if result is None),
                    whys[0] if whys else None,
                    command_of(study, folder, cells=[cell.name], num_seeds=max(seeds) + 1),
                )
            )
        return cls(study, tuple(cells), max(seeds) + 1, read_seconds(folder), command)

    @property
    def failures(self) -> dict[str, str]:
        """Name of each cell that failed in this run, to why."""
        return {cell.cell.name: cell.failure for cell in self.cells if cell.failure is not None}

    @property
    def main(self) -> CellReport | None:
        """The main cell, or the first that has a result; None without one."""
        done = {cell.cell.name: cell for cell in self.cells if cell.results}
        return done.get(self.study.main_name) or next(iter(done.values()), None)

    @property
    def pairs(self) -> list[tuple[World, Mapping[str, GroupSummary]]]:
        """The pairs of models that cells were run with, each with the controls on the clients of its first cell."""
        found: dict[str, tuple[World, dict[int, Sequence[ClientScores]]]] = {}
        for cell in self.cells:
            world = self.study.control_world_of(cell.cell)
            _, clients = found.setdefault(str(world), (world, {}))
            for result in cell.results:
                clients.setdefault(result.seed, result.controls)
        return [(world, pooled(clients, config={}).summary) for world, clients in found.values() if clients]

    @property
    def evaluation(self) -> Report | None:
        """The main cell beside every control and, as rivals, the other cells on the same clients."""
        main = self.main
        if main is None:
            return None
        clients: dict[int, list[ClientScores]] = {result.seed: list(result.clients) for result in main.results}
        for rival in self.cells:
            if rival.cell.name != main.cell.name and self._has_same_clients(rival.cell, main.cell):
                for result in rival.results:
                    if result.seed in clients:
                        clients[result.seed] = _with_rival(clients[result.seed], rival.cell.name, result)
        config = {
            "study": asdict(self.study),
            "main_cell": main.cell.name,
            "num_target_runs": main.results[0].num_target_runs,
        }
        return replace(pooled(clients, config=config), seconds=self.seconds, command=self.command)

    def _has_same_clients(self, cell: Cell, other: Cell) -> bool:
        """Return whether two cells are scored on the same adapters, read in the same way."""
        study = self.study
        same_pair = study.control_world_of(cell) == study.control_world_of(other)
        return same_pair and study.clients_of(cell) == study.clients_of(other)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of report.json: JSON values only."""
        report = self.evaluation
        if report is None:
            values: dict[str, Any] = {
                "metric": {"name": "exact_match", "higher_is_better": True},
                "clients": [],
                "summary": {},
                "seconds": dict(self.seconds),
                "config": {"study": asdict(self.study), "main_cell": None},
                "versions": library_versions(),
                "command": self.command,
            }
        else:
            values = report.to_json()
        return values | {"cells": [cell.to_json() for cell in self.cells]}


def command_of(study: Study, folder: Path, *, cells: Sequence[str], num_seeds: int) -> str:
    """Return the command that runs cells of a study."""
    words = ["gradtx", "study", study.name, "--output-dir", str(folder)]
    words += ["--cell", *cells] if cells else []
    words += ["--seeds", str(num_seeds)] if num_seeds > 1 else []
    return shlex.join(words)


def _with_rival(clients: Sequence[ClientScores], name: str, result: CellResult) -> list[ClientScores]:
    """Return clients' scores with those of another cell's translated adapters, under the cell's name."""
    renamed = [
        replace(
            client,
            scores={name: client.scores[TRANSLATED]},
            nats_per_token={name: client.nats_per_token[TRANSLATED]},
        )
        for client in result.clients
    ]
    return [merged(client, other) for client, other in zip(clients, renamed, strict=True)]
