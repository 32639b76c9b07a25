"""``run_study``: all cells of a study over seeds, shared stages first, into one report; resumable, see ``world``.

Source: ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gradtx_hf.curation import curate
from gradtx_hf.errors import ConfigurationError, GradTxError, OutputExistsError
from gradtx_hf.evaluation.fine_tuning import FineTuningJob, pack_jobs, perform_pack
from gradtx_hf.evaluation.seconds import timed
from gradtx_hf.output import require_new_folder, write_json
from gradtx_hf.studies.cells import Cell, Study, World
from gradtx_hf.studies.claim import STUDY_FILE
from gradtx_hf.studies.client_lines import client_values
from gradtx_hf.studies.client_runs import MOST_AT_ONCE, missing_client_runs
from gradtx_hf.studies.client_sets import ClientSet
from gradtx_hf.studies.clients import CONTROLS_FILE, score_constants, score_controls
from gradtx_hf.studies.models import EMBEDDED, Pretraining, model_folder, pretrain_model
from gradtx_hf.studies.results import read_result
from gradtx_hf.studies.shared_runs import share_source_runs
from gradtx_hf.studies.stages import (
    CellScoring,
    Task,
    TrainingJob,
    one_line,
    perform,
    score_cell,
    train_translator,
)
from gradtx_hf.studies.study_report import StudyReport
from gradtx_hf.studies.study_saving import save_study_report
from gradtx_hf.studies.world import Place, curation_arguments
from gradtx_hf.updates.store import MANIFEST_FILE


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellRun:
    """One cell of one seed.

    Attributes:
        study: The study.
        cell: The cell.
        place: The seed and its folders.
    """

    study: Study
    cell: Cell
    place: Place

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"cell '{self.cell.name}' of seed {self.place.seed}"

    @property
    def is_done(self) -> bool:
        """Whether its result is there, and of these settings."""
        return read_result(self.study, self.cell, self.place) is not None

    @cached_property
    def worlds(self) -> list[World]:
        """The worlds that it needs: that of its controls, and its own."""
        return [self.study.control_world_of(self.cell), self.study.world_of(self.cell)]

    @cached_property
    def clients(self) -> ClientSet:
        """Its clients."""
        settings = self.study.clients_of(self.cell)
        return ClientSet(
            folder=self.place.clients(self.study, self.cell),
            sources=self.place.sources(self.study, self.cell),
            ceilings=self.place.ceilings(self.study, self.cell),
            public_finetune=self.place.public_finetune(self.study, self.cell),
            store=self.place.store(self.study.control_world_of(self.cell)),
            values=tuple(client_values(settings, self.place)),
            num_members=settings.num_members,
            aggregation=settings.aggregation,
        )

    @property
    def translator(self) -> Path:
        """The folder of its translator."""
        return self.place.translator(self.study, self.cell)


def run_study(
    study: Study,
    output_dir: str | Path,
    *,
    num_seeds: int = 1,
    cells: Sequence[str] | None = None,
    num_workers: int = 1,
    command: str = "",
) -> StudyReport:
    """Run a study's cells, those that are not done, and write ``report.{json,md,png}``.

    Args:
        study: The study.
        output_dir: Its folder; one that holds the same study is continued.
        num_seeds: Seeds 0 … num_seeds - 1 are run, each with another split of the rules.
        cells: Names of the cells to run; None: all. The report shows all that were ever run in this folder.
        num_workers: One-thread processes side by side; the numbers do not depend on it.
        command: The command line, for the report.

    Returns:
        The report; its ``failures`` name the cells of this run that failed.

    Raises:
        ConfigurationError: If a cell is unknown, or a number is below 1.
        OutputExistsError: If the folder holds something else.
    """
    for name, value in (("seeds", num_seeds), ("num_workers", num_workers)):
        if value < 1:
            raise ConfigurationError(f"got {name}={value}, expected at least 1.")
    chosen = [study.cell(name) for name in dict.fromkeys(cells)] if cells else list(study.cells)
    folder = _claim(Path(output_dir).absolute(), study)
    places = [Place(folder, seed) for seed in range(num_seeds)]
    runs = [CellRun(study, cell, place) for place in places for cell in chosen]
    failures = _run_missing([run for run in runs if not run.is_done], folder, num_workers=num_workers)
    report = StudyReport.read(study, folder, num_seeds=num_seeds, failures=failures, command=command)
    save_study_report(report, folder)
    return report


def _claim(folder: Path, study: Study) -> Path:
    path = folder / STUDY_FILE
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))["study"]
        if held != study.name:
            raise OutputExistsError(f"'{folder}' holds study '{held}', got '{study.name}'. Name a new folder.")
        return folder
    require_new_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(path, {"study": study.name})
    return folder


def _run_missing(runs: Sequence[CellRun], folder: Path, *, num_workers: int) -> dict[tuple[str, int], str]:
    """Run the stages of these cells one after the other, jobs within a stage side by side.

    Returns:
        (cell, seed) to why it failed.
    """
    failures: dict[tuple[str, int], str] = {}

    def drop(going: Sequence[CellRun], failed: Iterable[tuple[CellRun, str]]) -> list[CellRun]:
        failures.update({(run.cell.name, run.place.seed): why for run, why in failed})
        return [run for run in going if (run.cell.name, run.place.seed) not in failures]

    runs = drop(runs, _pretrain(runs, folder, num_workers=num_workers))
    runs = drop(runs, _curate(runs, folder, num_workers=num_workers))
    runs = drop(runs, _prepare_clients(runs, folder, num_workers=num_workers))
    runs = drop(runs, _train(runs, folder, num_workers=num_workers))
    drop(runs, _score(runs, folder, num_workers=num_workers))
    return failures


def _pretrain(runs: Sequence[CellRun], folder: Path, *, num_workers: int) -> list[tuple[CellRun, str]]:
    def models(run: CellRun) -> set[str]:
        return {name for world in run.worlds for name in (world.source, world.target)} - set(EMBEDDED)

    wanted = dict.fromkeys(name for run in runs for name in sorted(models(run)))
    jobs = [Pretraining(name, model_folder(name, folder)) for name in wanted]
    tasks = [Task(job.name, pretrain_model, job) for job in jobs if not job.folder.is_dir()]
    with timed(folder, "pretraining"):
        failed = perform(tasks, num_workers=num_workers, description="pretraining models")
    return [(run, f"model '{name}': {why}") for name, why in failed.items() for run in runs if name in models(run)]


def _curate(runs: Sequence[CellRun], folder: Path, *, num_workers: int) -> list[tuple[CellRun, str]]:
    """Curate the store of every world; one after the other, as each uses all workers itself."""
    wanted = {run.place.store(world): (world, run.place) for run in runs for world in run.worlds}
    failed: dict[Path, str] = {}
    with timed(folder, "curation"):
        for store, (world, place) in wanted.items():
            if not (store / MANIFEST_FILE).is_file():
                try:
                    arguments = curation_arguments(world, place, num_workers=num_workers)
                    share_source_runs(arguments, store.parent)
                    curate(arguments)
                except GradTxError as error:
                    failed[store] = one_line(error)
    return [(run, failed[s]) for run in runs for s in map(run.place.store, run.worlds) if s in failed]


def _prepare_clients(runs: Sequence[CellRun], folder: Path, *, num_workers: int) -> list[tuple[CellRun, str]]:
    """Fine-tune all clients and ceilings, then score the controls."""
    jobs: dict[str, FineTuningJob] = {}
    needed: dict[Path, set[str]] = {}
    for run in {run.clients.folder: run for run in runs}.values():
        world, settings = run.study.control_world_of(run.cell), run.study.clients_of(run.cell)
        missing = {job.output_dir: job for job in missing_client_runs(run.clients, world, settings)}
        jobs |= missing
        needed[run.clients.folder] = set(missing)
    with timed(folder, "clients"):
        packs = pack_jobs(list(jobs.values()), most_at_once=MOST_AT_ONCE)
        tasks = [Task(pack.key, perform_pack, pack) for pack in packs]
        failed_packs = perform(tasks, num_workers=num_workers, description="fine-tuning clients and ceilings")
        failed = {
            job.output_dir: failed_packs[pack.key] for pack in packs if pack.key in failed_packs for job in pack.jobs
        }
        whys: dict[str, str] = {
            str(path): failed[key] for path, keys in needed.items() for key in sorted(keys) if key in failed
        }
        going = [run for run in runs if str(run.clients.folder) not in whys]
        scorings: dict[Path, Task[ClientSet]] = {}
        for run in going:
            for path, function in ((run.clients.ceilings, score_constants), (run.clients.folder, score_controls)):
                if not (path / CONTROLS_FILE).is_file():
                    scorings[path] = Task(str(path), function, run.clients)
        whys |= perform(list(scorings.values()), num_workers=num_workers, description="scoring controls")
    found = []
    for run in runs:
        why = whys.get(str(run.clients.folder)) or whys.get(str(run.clients.ceilings))
        found += [(run, why)] if why else []
    return found


def _train(runs: Sequence[CellRun], folder: Path, *, num_workers: int) -> list[tuple[CellRun, str]]:
    wanted = {run.translator: run for run in runs if not run.translator.is_dir()}
    tasks = []
    for path, run in wanted.items():
        store = run.place.store(run.study.world_of(run.cell))
        job = TrainingJob(store, run.study.training_of(run.cell), run.place.seed, path)
        tasks.append(Task(run.name, train_translator, job))
    with timed(folder, "training"):
        failed = perform(tasks, num_workers=num_workers, description="training translators")
    failed_paths = {path: failed[run.name] for path, run in wanted.items() if run.name in failed}
    return [(run, failed_paths[run.translator]) for run in runs if run.translator in failed_paths]


def _score(runs: Sequence[CellRun], folder: Path, *, num_workers: int) -> list[tuple[CellRun, str]]:
    tasks = [
        Task(
            run.name,
            score_cell,
            CellScoring(
                translator=run.translator,
                clients=run.clients,
                settings=run.study.settings_of(run.cell),
                client_noise=run.cell.client_noise,
                seed=run.place.seed,
                result=run.place.result(run.cell),
            ),
        )
        for run in runs
    ]
    with timed(folder, "scoring"):
        failed = perform(tasks, num_workers=num_workers, description="scoring cells")
    return [(run, failed[run.name]) for run in runs if run.name in failed]
