"""Independent jobs over several one-thread processes, with a progress bar."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

import torch
from tqdm import tqdm

from gradtx_hf.finetuning.allocator import keep_freed_memory
from gradtx_hf.finetuning.worker_processes import start_method, take_environment


Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, num_workers: int, description: str
) -> Iterator[tuple[int, Result]]:
    """Run a function on every job and yield (index of the job, result) as they end.

    Args:
        function: A function of a module, so that other processes can import it.
        jobs: Its arguments; they must be picklable between processes of this machine.
        num_workers: Processes, each with one torch thread; with 1, the jobs run here, in order. A function that
            uses ``one_thread`` gives the same result either way.
        description: What the progress bar says.

    Raises:
        Exception: What a job raised; those that run are waited for, those that have not begun are dropped.
        KeyboardInterrupt: At once, without waiting for the jobs that run.
    """
    bar = tqdm(total=len(jobs), desc=description, unit="run", file=sys.stderr, disable=not jobs)
    with bar:
        if num_workers <= 1 or len(jobs) <= 1:
            for index, job in enumerate(jobs):
                yield index, function(job)
                bar.update()
            return
        context = multiprocessing.get_context(start_method())
        lifeline, held = context.Pipe(duplex=False)
        with (
            lifeline,
            held,
            ProcessPoolExecutor(
                min(num_workers, len(jobs)),
                mp_context=context,
                initializer=_begin_worker,
                initargs=(lifeline, dict(os.environ)),
            ) as pool,
        ):
            futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
                    bar.update()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):
                    held.close()
                raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread: on a CPU the number of threads changes the last bits of a run."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _begin_worker(lifeline: Connection, environment: Mapping[str, str]) -> None:
    """Use one thread, leave Ctrl-C to the process that started this one, and end as soon as it lets go."""
    take_environment(environment)
    torch.set_num_threads(1)
    gc.freeze()  # what was imported stays: accelerate collects garbage at the start of every training
    if not torch.cuda.is_available():
        keep_freed_memory()  # this process does nothing but jobs of one kind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_and_exit, args=(lifeline,), daemon=True).start()


def _wait_and_exit(lifeline: Connection) -> None:
    """End when the other end of the pipe is closed, be it by the starting process or, after its death, for it."""
    lifeline.poll(None)
    os._exit(1)
