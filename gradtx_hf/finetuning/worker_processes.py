"""How the processes of this machine that work side by side are started.

Importing the libraries takes a process many seconds. So one process, started early, imports them, and all others are
forked from it (Python's "fork server"). With a GPU every process starts afresh: what was forked cannot be sure of CUDA.
Source: ours.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
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
    return "forkserver"


def begin_imports() -> None:
    """Let the libraries be imported for processes that will soon be started; returns at once."""
    if start_method() == "forkserver":
        forkserver.ensure_running()


def take_environment(environment: Mapping[str, str]) -> None:
    """Set this process's environment variables: a forked one has those of the time when the first one was started."""
    os.environ.clear()
    os.environ.update(environment)
