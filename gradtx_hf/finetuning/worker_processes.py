"""How the processes of this machine that work side by side are started.

Importing the libraries takes a process many seconds. So one process, started early, imports them, and all others are
forked from it (Python's "fork server"). With a GPU every process starts afresh: what was forked cannot be sure of CUDA.
Source: ours.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Literal

import torch


IMPORTED = ("gradtx_hf.finetuning",)
"""What all processes need, and what it imports: torch, transformers, datasets, PEFT, TRL."""


def start_method() -> Literal["forkserver", "spawn"]:
    """Return how processes are to be started, as ``multiprocessing.get_context`` names it."""
    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    with _without_interrupts():
        forkserver.ensure_running()
    return "forkserver"


def begin_imports() -> None:
    """Let the libraries be imported for processes that will be started later; returns at once."""
    start_method()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let what is started meanwhile, and what is forked from it, leave Ctrl-C to the process that started it."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def take_environment(environment: Mapping[str, str]) -> None:
    """Set this process's environment variables: a forked one has those of the time when the first one was started."""
    os.environ.clear()
    os.environ.update(environment)
