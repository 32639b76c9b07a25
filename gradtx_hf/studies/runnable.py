"""Every kind of study behind one face: those of cells on the playground, those with a way of their own, the paper's.

``find_runnable`` gives what ``gradtx study`` needs: a title, the cells, a plan without running, and the run itself, at
its size or as a dry run, which goes the whole way at toy size. Source: ours.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies import baselines, full_weights, real_text, shift
from gradtx_hf.studies.catalogue import STUDIES
from gradtx_hf.studies.cells import Cell, Study
from gradtx_hf.studies.kinds import one_of_each_kind
from gradtx_hf.studies.paper.definition import FOLDER, PaperCell, PaperStudy, load_paper_study, paper_study_names
from gradtx_hf.studies.paper.run import run_paper_study
from gradtx_hf.studies.run_study import run_study
from gradtx_hf.studies.study_plan import render_plan
from gradtx_hf.studies.tiny import tiny_baselines, tiny_full_weights, tiny_shift, tiny_study


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        cells: Names of the cells; None: all.
        num_seeds: Seeds 0 … num_seeds - 1.
        num_workers: Processes side by side; of a study of the paper those that train a translator together, each with
            a device of its own. None: 2, or 1 for a study of the paper.
        is_dry_run: The whole way at toy size; where no cells are named, of one cell of each kind.
        data: Folder of data sets, for the study that reads the user's own.
        command: The command line, for the report.
    """

    cells: Sequence[str] | None = None
    num_seeds: int = 1
    num_workers: int | None = None
    is_dry_run: bool = False
    data: str | None = None
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        values: What its report.json holds.
        failures: Cell to why it failed.
        missing: Cells without a result.
    """

    values: Mapping[str, Any]
    failures: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()


class Runnable(Protocol):
    """A study that can be planned and run."""

    @property
    def name(self) -> str:
        """Its name in commands."""

    @property
    def title(self) -> str:
        """What it varies, a few words."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of its cells; none for a study that runs as one."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of one cell of each kind, which a dry run goes through."""

    def plan(self, cells: Sequence[str], *, num_seeds: int) -> str:
        """Return what a run would do and cost."""

    def run(self, folder: Path, request: Request) -> Outcome:
        """Run it, and write ``report.{json,md,png}`` into the folder."""


def runnable_titles() -> dict[str, str]:
    """Return every study's title by its name."""
    return {study.name: study.title for study in [find_runnable(name) for name in _names()]}


def find_runnable(name: str) -> Runnable:
    """Return a study by its name, or by the path of a YAML file such as those of the paper.

    Raises:
        ConfigurationError: If there is none of that name, or the file is no study.
        MissingFileError: If the file is not there.
    """
    if name in STUDIES:
        return _OfCells(STUDIES[name])
    if name in WHOLE:
        return WHOLE[name]
    if name in paper_study_names():
        return _OfPaper(load_paper_study(FOLDER / f"{name}.yaml"))
    if name.endswith((".yaml", ".yml")):
        return _OfPaper(load_paper_study(name))
    raise ConfigurationError(f"got study '{name}', expected a YAML file or one of {', '.join(_names())}.")


def next_command(study: Runnable, folder: Path, request: Request, missing: Sequence[str]) -> str:
    """Return the command that runs what is missing, or else more seeds."""
    words = ["gradtx", "study", study.name, "--output-dir", str(folder)]
    words += ["--dry-run"] if request.is_dry_run else []
    words += ["--data", request.data] if request.data else []
    words += ["--cell", *missing] if missing else []
    num_seeds = request.num_seeds if missing else max(3, request.num_seeds + 1)
    words += ["--seeds", str(num_seeds)] if num_seeds > 1 else []
    return f"{shlex.join(words)}   # {'what is missing' if missing else 'more seeds'}"


@dataclass(frozen=True)
class _OfCells:
    """A study of cells on the playground."""

    study: Study

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def title(self) -> str:
        return self.study.title

    @property
    def cells(self) -> tuple[str, ...]:
        return tuple(cell.name for cell in self.study.cells)

    @property
    def kinds(self) -> tuple[str, ...]:
        return _kinds(sorted(tiny_study(self.study).cells, key=lambda cell: cell.name != self.study.main))

    def plan(self, cells: Sequence[str], *, num_seeds: int) -> str:
        return render_plan(self.study, [self.study.cell(name) for name in cells], num_seeds=num_seeds)

    def run(self, folder: Path, request: Request) -> Outcome:
        report = run_study(
            tiny_study(self.study) if request.is_dry_run else self.study,
            folder,
            num_seeds=request.num_seeds,
            cells=request.cells or (self.kinds if request.is_dry_run else None),
            num_workers=request.num_workers or min(2, os.cpu_count() or 1),
            command=request.command,
        )
        missing = [cell.cell.name for cell in report.cells if cell.missing]
        return Outcome(report.to_json(), report.failures, missing)


@dataclass(frozen=True)
class _Whole:
    """A study without cells, which fails or succeeds as one."""

    name: str
    title: str
    study: Callable[..., Any]
    make_plan: Callable[..., str]
    tiny_settings: Callable[[], Any]
    cells: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def plan(self, cells: Sequence[str], *, num_seeds: int) -> str:
        assert not cells
        return self.make_plan(num_seeds=num_seeds)

    def run(self, folder: Path, request: Request) -> Outcome:
        report = self.study(
            folder,
            num_seeds=request.num_seeds,
            num_workers=request.num_workers or min(2, os.cpu_count() or 1),
            settings=self.tiny_settings() if request.is_dry_run else None,
            command=request.command,
        )
        return Outcome(report.to_json())


@dataclass(frozen=True)
class _OfPaper:
    """A table or figure of the paper."""

    study: PaperStudy

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def title(self) -> str:
        return f"{self.study.title} ({self.study.where} of the paper, its models and data)"

    @property
    def cells(self) -> tuple[str, ...]:
        return tuple(cell.name for cell in self.study.cells)

    @property
    def kinds(self) -> tuple[str, ...]:
        return _kinds(self.study.cells)

    def plan(self, cells: Sequence[str], *, num_seeds: int) -> str:
        chosen = [self.study.cell(name) for name in cells]
        return _plan_of_cells(self.study, chosen, title=self.title, num_seeds=num_seeds)

    def run(self, folder: Path, request: Request) -> Outcome:
        report = run_paper_study(
            self.study,
            folder,
            num_seeds=request.num_seeds,
            cells=request.cells or (self.kinds if request.is_dry_run else None),
            num_processes=1 if request.is_dry_run else request.num_workers or 1,
            is_dry_run=request.is_dry_run,
            command=request.command,
        )
        return Outcome(report.to_json(), report.failures, report.missing)


@dataclass(frozen=True)
class _RealText:
    """The study on data sets of the user's."""

    name: str = real_text.NAME
    cells: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{real_text.real_text_study().title} (--data DIR)"

    def plan(self, cells: Sequence[str], *, num_seeds: int) -> str:
        assert not cells
        study = real_text.real_text_study()
        return _plan_of_cells(study, study.cells, title=self.title, num_seeds=num_seeds)

    def run(self, folder: Path, request: Request) -> Outcome:
        report = real_text.run_real_text_study(
            folder,
            data=request.data,
            num_seeds=request.num_seeds,
            is_dry_run=request.is_dry_run,
            command=request.command,
        )
        return Outcome(report.to_json())


WHOLE: dict[str, Runnable] = {
    study.name: study
    for study in (
        _Whole(shift.NAME, shift.TITLE, shift.run_shift_study, shift.render_shift_plan, tiny_shift),
        _Whole(
            baselines.NAME,
            baselines.TITLE,
            baselines.run_baselines_study,
            baselines.render_baselines_plan,
            tiny_baselines,
        ),
        _Whole(
            full_weights.NAME,
            full_weights.TITLE,
            full_weights.run_full_weights_study,
            full_weights.render_full_weights_plan,
            tiny_full_weights,
        ),
        _RealText(),
    )
}


def _kinds(cells: Sequence[Cell] | Sequence[PaperCell]) -> tuple[str, ...]:
    labels = ("name", "label", "x", "series", "panel", "paper")
    settings = {cell.name: {k: v for k, v in asdict(cell).items() if k not in labels} for cell in cells}
    return tuple(one_of_each_kind(settings))


def _plan_of_cells(study: PaperStudy, cells: Sequence[PaperCell], *, title: str, num_seeds: int) -> str:
    """Return what a run of cells would do, one row each."""
    rows = [
        [
            cell.name,
            cell.label,
            *(str(cell.curate.get(f"{side}_model", "pretrained by the study")) for side in ("source", "target")),
            str(cell.curate["num_shadow_sets"]),
            str(sum(max(1, len(client.get("members", ()))) for client in cell.evaluate["clients"])),
        ]
        for cell in cells
    ]
    head = ["cell", "label", "source", "target", "shadow sets", "clients"]
    text = f"{len(cells)} cells by {num_seeds} seed{'' if num_seeds == 1 else 's'}. Nothing was run or written."
    return "\n\n".join([f"{study.name}: {title}", study.question, markdown_table(head, rows), text])


def _names() -> list[str]:
    return [*STUDIES, *WHOLE, *paper_study_names()]
