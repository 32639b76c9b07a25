"""What a study does, as jobs for other processes: train a translator, score it; and jobs of which some may fail.

Source: ours.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from transformers.utils import logging as transformers_logging

from gradtx_hf.errors import GradTxError
from gradtx_hf.finetuning.pool import one_thread, run_jobs
from gradtx_hf.output import write_json
from gradtx_hf.studies.client_sets import ClientSet
from gradtx_hf.studies.clients import count_off_the_map, score_translator
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.translation import TRAINING_FILE, PeftTranslator


logger = logging.getLogger(__name__)

NUM_CHECKPOINTS = 4
"""Checkpoints of a training, the last of which an interrupted study goes on from."""
T = TypeVar("T")


@dataclass(frozen=True)
class Task(Generic[T]):
    """One job and what it is called in messages."""

    key: str
    function: Callable[[T], None]
    argument: T


@dataclass(frozen=True)
class TrainingJob:
    """A translator to train: from which store, with what arguments of ``TranslatorArguments``, into which folder."""

    store: Path
    arguments: Mapping[str, Any]
    seed: int
    output_dir: Path


@dataclass(frozen=True)
class CellScoring:
    """A cell to score: its translator on its clients, and the file that its result goes to."""

    translator: Path
    clients: ClientSet
    settings: Mapping[str, Any]
    client_noise: float
    seed: int
    result: Path


def perform(tasks: list[Task[T]], *, num_workers: int, description: str) -> dict[str, str]:
    """Perform independent tasks; one that fails does not stop the others.

    Args:
        tasks: The tasks.
        num_workers: One-thread processes side by side.
        description: What the progress bar says.

    Returns:
        Key of each task that failed, to why, in one line.

    Raises:
        GradTxError: If a process was ended from outside, which nobody can know the reason of.
    """
    failures: dict[str, str] = {}
    try:
        for index, failure in run_jobs(attempt, tasks, num_workers=num_workers, description=description):
            if failure is not None:
                failures[tasks[index].key] = failure
                logger.warning("%s failed: %s", tasks[index].key, failure)
    except BrokenProcessPool as error:
        raise GradTxError(
            f"a worker process was ended from outside while {description}, perhaps for want of memory: lower "
            "--num-workers. The same command goes on."
        ) from error
    return failures


def attempt(task: Task[T]) -> str | None:
    """Perform one task on one thread and return why it failed, in one line; None if it did not."""
    transformers_logging.disable_progress_bar()  # in this process, which may be a worker's
    try:
        with one_thread():
            task.function(task.argument)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cells go on, and the report names it
        if os.environ.get("GRADTX_DEBUG") == "1":
            traceback.print_exc()
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, GradTxError) else f"{type(error).__name__}: {text[:300]}"


def train_translator(job: TrainingJob) -> None:
    """Train one translator; an interrupted training goes on from its last checkpoint."""
    num_steps = int(job.arguments["max_steps"])
    arguments = TranslatorArguments(
        store=str(job.store),
        output_dir=str(job.output_dir),
        seed=job.seed,
        **{
            "validation_share": 0.0,
            "eval_strategy": "no",
            "save_strategy": "steps",
            "save_steps": max(1, num_steps // NUM_CHECKPOINTS),
            "save_total_limit": 1,
            "use_cpu": True,
            "disable_tqdm": True,
            **job.arguments,
        },
    )
    train(arguments)


def score_cell(job: CellScoring) -> None:
    """Score one cell and write its ``result.json``."""
    begin = time.perf_counter()
    translator = PeftTranslator.from_pretrained(str(job.translator))
    scored = score_translator(job.clients, translator, noise=job.client_noise, seed=job.seed)
    shutil.rmtree(job.result.parent, ignore_errors=True)  # a result of other settings
    job.result.parent.mkdir(parents=True)
    training = json.loads((job.translator / TRAINING_FILE).read_text(encoding="utf-8"))
    parts = training["parts"].values()
    write_json(
        job.result,
        {
            "settings": job.settings,
            "translator": str(job.translator),
            "clients": [asdict(client) for client in scored],
            "off_the_map": {
                "updates": count_off_the_map(job.clients, translator, noise=job.client_noise, seed=job.seed),
                "of": len(job.clients.teams),
            },
            "seconds": {
                "training": round(sum(part["seconds"] for part in parts), 1),
                "scoring": round(time.perf_counter() - begin, 1),
            },
            "num_training_updates": max(part["num_training_updates"] for part in parts),
            "train_loss": {name: part["train_loss"] for name, part in training["parts"].items()},
        },
    )
