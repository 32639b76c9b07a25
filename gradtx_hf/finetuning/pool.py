"""Independent jobs over several one-thread processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import TypeVar

import torch
from tqdm import tqdm


Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, num_workers: int, description: str
) -> Iterator[tuple[int, Result]]:
    """Run a function on every job and yield (index of the job, result) as they end.

    Args:
        function: A function of a module, so that other processes can import it.
        jobs: Its arguments; they must be picklable between processes of this machine.
        num_workers: Processes, each with one torch thread; with 1, the jobs run here, in order.
        description: What the progress bar says.

    Raises:
        Exception: What a job raised; jobs that have not begun are dropped.
    """
    bar = tqdm(total=len(jobs), desc=description, unit="run", file=sys.stderr, disable=not jobs)
    with bar:
        if num_workers <= 1 or len(jobs) <= 1:
            for index, job in enumerate(jobs):
                yield index, function(job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context, initializer=_begin_worker) as pool:
            futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _begin_worker() -> None:
    """Use one thread, and end as soon as the process that started this one is gone, however that ended."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=(parent.sentinel,), daemon=True).start()


def _wait_and_exit(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
