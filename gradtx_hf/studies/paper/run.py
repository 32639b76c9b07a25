"""Run a study of the paper: every cell's curation, training and evaluation, each resumable, into one table.

    models/KEY                      a pair that the study pretrained
    stores/KEY, translators/KEY     shared by cells of the same arguments and seed
    cells/NAME/seed-S/              the evaluation, with its own report
    study.json                      the study, so that the folder is continued by no other
    report.{json,md,png}            the table

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import ConfigurationError, GradTxError
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.run import evaluate
from gradtx_hf.evaluation.seconds import timed
from gradtx_hf.output import write_json
from gradtx_hf.studies.claim import claim_folder
from gradtx_hf.studies.paper.definition import PaperCell, PaperStudy
from gradtx_hf.studies.paper.report import STAGES_FILE, PaperReport, cell_folder, save_paper_report, seconds_folder
from gradtx_hf.studies.paper.tiny import tiny_cell
from gradtx_hf.studies.pretrain_text import TextPretraining, pretrain_pair
from gradtx_hf.training.processes import train_in_processes
from gradtx_hf.training.run import TranslatorArguments, train
from gradtx_hf.updates.store import SIDES


logger = logging.getLogger(__name__)

KEY_CHARACTERS = 12


def run_paper_study(
    study: PaperStudy,
    output_dir: str | Path,
    *,
    num_seeds: int = 1,
    cells: Sequence[str] | None = None,
    num_processes: int = 1,
    is_dry_run: bool = False,
    command: str = "",
) -> PaperReport:
    """Run a study's cells, those that are not done, and write ``report.{json,md,png}``.

    Args:
        study: The study.
        output_dir: Its folder; one that holds the same study is continued.
        num_seeds: Seeds 0 … num_seeds - 1 are run: of shadow sets, translators and clients.
        cells: Names of the cells to run; None: all. The report shows all that were ever run in this folder.
        num_processes: Processes, each with a device of its own, that train a translator side by side.
        is_dry_run: Go the whole way with tiny random models and made-up rows; the numbers mean nothing.
        command: The command line, for the report.

    Returns:
        The report; its ``failures`` name the cells of this run that failed.

    Raises:
        ConfigurationError: If there is no such cell, or a number is not positive.
        OutputExistsError: If the folder holds something else.
    """
    if num_seeds < 1 or num_processes < 1:
        raise ConfigurationError(f"got {num_seeds} seeds and {num_processes} processes, expected at least 1 of each.")
    chosen = [study.cell(name) for name in cells] if cells else list(study.cells)
    folder = Path(output_dir)
    claim_folder(folder, {"study": asdict(study), "is_dry_run": is_dry_run})
    failures: dict[str, str] = {}
    for seed in range(num_seeds):
        for cell in chosen:
            logger.info("cell %s of %s, seed %d", cell.name, study.name, seed)
            try:
                run_cell(
                    tiny_cell(cell, folder) if is_dry_run else cell, folder, seed=seed, num_processes=num_processes
                )
            except GradTxError as error:
                failures.setdefault(cell.name, str(error))
                logger.warning("cell %s failed: %s", cell.name, error)
    report = PaperReport.read(study, folder, num_seeds=num_seeds, is_dry_run=is_dry_run, failures=failures)
    save_paper_report(report, folder, command=command)
    return report


def run_cell(
    cell: PaperCell, folder: Path, *, seed: int, num_processes: int, translator_seed: int | None = None
) -> None:
    """Run one cell of one seed, each stage where it was interrupted.

    Args:
        cell: The cell.
        folder: The study's folder.
        seed: Seed of the clients.
        num_processes: Processes that train a translator side by side.
        translator_seed: Seed of shadow sets and translator; None: that of the clients.

    Raises:
        GradTxError: If a stage refuses its arguments or fails.
    """
    home = cell_folder(folder, cell.name, seed)
    if (home / STAGES_FILE).is_file():
        return
    models, made = _models(cell, folder), seed if translator_seed is None else translator_seed
    curation = {**cell.curate, "seed": made} | ({"pretrain": cell.pretrain} if cell.pretrain else {})
    store = folder / "stores" / _key(curation)
    if not (store / "manifest.json").is_file():
        values = {**cell.curate, **models, "seed": made, "output_dir": str(store)}
        with timed(seconds_folder(folder, store), "curation"):
            curate(_arguments(CurationArguments, values, stage="curate"))
    training = {**cell.train, "store": str(store), "seed": made}
    translator = folder / "translators" / _key([curation, cell.train])
    if not translator.is_dir():
        values = {**training, "output_dir": str(translator)}
        arguments = _arguments(TranslatorArguments, values, stage="train")
        with timed(seconds_folder(folder, translator), "training"):
            if num_processes == 1:
                train(arguments)
            else:
                train_in_processes(values, num_processes=num_processes)
    clients = [_seeded(client, seed) for client in cell.evaluate["clients"]]
    values = {**cell.evaluate, "clients": clients, "translator": str(translator), "store": str(store)}
    if "adapters_from" in values:
        values["adapters_from"] = str(cell_folder(folder, values["adapters_from"], seed))
    evaluate(_arguments(EvaluationArguments, {**values, "output_dir": str(home)}, stage="evaluate"))
    stages = [seconds_folder(folder, stage).relative_to(folder).as_posix() for stage in (store, translator)]
    write_json(home / STAGES_FILE, {"seconds": stages})


def _models(cell: PaperCell, folder: Path) -> dict[str, str]:
    """Return the curation's models that the study pretrains, which is done if they are not there."""
    if not cell.pretrain:
        return {}
    corpora = cell.curate["corpora"]
    models = folder / "models" / _key([cell.pretrain, corpora])
    pretraining = TextPretraining.from_dict(cell.pretrain, corpora=corpora)
    if not all((models / side).is_dir() for side in SIDES):
        with timed(seconds_folder(folder, models), "pretraining"):
            pretrain_pair(pretraining, models)
    return {f"{side}_model": str(models / side) for side in SIDES}


def _arguments(kind: type[Any], values: Mapping[str, Any], *, stage: str) -> Any:  # noqa: ANN401 - of the kind
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigurationError(
            f"the study's arguments of {stage} do not fit: {error}. See gradtx {stage} --help."
        ) from error


def _seeded(client: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {**client, "seed": client.get("seed", 0) + 1000 * seed}


def _key(values: Any) -> str:  # noqa: ANN401 - any JSON value
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARACTERS]
