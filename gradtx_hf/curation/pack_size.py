"""How many runs to fine-tune at once: tried on the real model, data and recipe, before a curation starts.

Sizes double until a pack no longer does more in the same time, or the next would take more than its share of the free
memory. The decision goes into the plan; a curation that is continued takes it from there. Source: ours.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gradtx_hf.curation.initial import SideSettings
from gradtx_hf.curation.memory import free_bytes, measured_peak, used_bytes
from gradtx_hf.curation.worker import Run, packed_runs
from gradtx_hf.finetuning import PackedRun, fine_tune_pack, load_language_model
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.lora import Adapter
from gradtx_hf.updates.store import Side


logger = logging.getLogger(__name__)

LARGEST = 64
MEMORY_SHARE = 0.8
"""Share of the memory free at the start that all processes' models and packs may take."""
LEAST_GAIN = 0.1
"""A pack of twice the runs must take at least so many more steps per second."""
TRIAL_STEPS = 7
"""Optimizer steps of a trial; the first two are not timed."""
TRIAL_LEARNING_RATE = 1e-9
"""A trial without warm-up must not diverge; the time of a step does not depend on it."""


@dataclass(frozen=True)
class Trial:
    """What a pack of some size came to.

    Attributes:
        steps_per_second: Optimizer steps of all its runs, in a second.
        num_bytes: Memory for the model and the pack.
        model_bytes: Memory for the model alone.
    """

    steps_per_second: float
    num_bytes: int
    model_bytes: int


def try_pack_sizes(
    side: Side, settings: SideSettings, initial: Adapter, *, runs: Sequence[Run], tokens: Dataset, num_workers: int
) -> int:
    """Fine-tune packs of growing size for a few steps; return the best number of runs at once.

    Args:
        side: Which side.
        settings: The side's settings.
        initial: Its initial adapter.
        runs: As many runs as are to be tried at once at most.
        tokens: The tokenized rows that they number.
        num_workers: Processes that are to run packs at once, on this machine.
    """
    try:
        return _try_on_model(side, settings, initial, packed_runs(side, runs, tokens, initial.tensors), num_workers)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def choose_pack_size(trial: Callable[[int], Trial | None], *, num_runs: int, budget: int, description: str) -> int:
    """Double the size of a pack for as long as it pays and fits.

    Args:
        trial: Tries a size; None if there was not the memory for it.
        num_runs: Largest size.
        budget: Bytes for the model and a pack.
        description: What the progress bar and the log say.

    Returns:
        The size, at least 1: a single run is not refused here.
    """
    sizes = [min(2**i, num_runs) for i in range(math.ceil(math.log2(num_runs)) + 1)]
    best, last = 0.0, 0
    for size in (bar := tqdm(sizes, desc=description, unit="size", file=sys.stderr, leave=False)):
        tried = trial(size)
        if tried is None:
            break
        gain = tried.steps_per_second / best - 1 if best else math.inf
        megabytes = tried.num_bytes / 1e6
        logger.info("%s: %d at once, %.3g steps/s, %.0f MB", description, size, tried.steps_per_second, megabytes)
        bar.set_postfix(size=size, steps_per_second=f"{tried.steps_per_second:.3g}")
        if last and (tried.num_bytes > budget or gain < LEAST_GAIN):
            break
        best, last = tried.steps_per_second, size
        if 2 * tried.num_bytes - tried.model_bytes > budget:  # a pack of twice the runs takes twice the memory
            break
    return max(1, last)


def _try_on_model(
    side: Side, settings: SideSettings, initial: Adapter, runs: Sequence[PackedRun], num_workers: int
) -> int:
    budget = int(MEMORY_SHARE * free_bytes()) // num_workers
    before = used_bytes()
    model, tokenizer = load_language_model(
        settings.model, revision=settings.revision, max_length=settings.recipe.max_length
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # transformers' wrapper is untyped
    model_bytes = used_bytes() - before
    recipe = replace(
        settings.recipe,
        num_steps=TRIAL_STEPS,
        warmup_steps=0,
        learning_rate=TRIAL_LEARNING_RATE,
        until_converged=False,
    )

    def trial(size: int) -> Trial | None:
        times = _StepTimes()
        try:
            with one_thread(), measured_peak() as peak:
                fine_tune_pack(
                    model,
                    runs[:size],
                    tokenizer=tokenizer,
                    recipe=recipe,
                    scales=initial.scales,
                    dropout=settings.dropout,
                    callbacks=[times],
                )
        except torch.OutOfMemoryError:
            return None
        return Trial(size / times.seconds_per_step, max(0, peak.num_bytes - before), max(0, model_bytes))

    return choose_pack_size(trial, num_runs=len(runs), budget=budget, description=f"trying {side} packs")


class _StepTimes(TrainerCallback):
    """Takes the time of every optimizer step: on a CPU that of the process, which other processes do not lengthen."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    @property
    def seconds_per_step(self) -> float:
        """Median time of a step."""
        return statistics.median(end - begin for begin, end in itertools.pairwise(self._ends[1:]))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._ends.append(time.perf_counter())
        else:
            self._ends.append(time.process_time())
