"""Processes are forked from one that has imported the libraries, with this process's own environment."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from gradtx_hf.finetuning.pool import run_jobs
from gradtx_hf.finetuning.worker_processes import start_method


NAME = "GRADTX_TEST_OF_WORKERS"


def environment_value(name: str) -> str | None:
    return os.environ.get(name)


def threads_of_torch(_: int) -> int:
    return torch.get_num_threads()


@pytest.mark.parametrize("value", ["first", "second", None])
def test_workers_have_the_environment_of_now(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """The second pool's workers come from a process that was started before the variable changed."""
    start_method()
    if value is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, value)
    found = run_jobs(environment_value, [NAME, NAME], num_workers=2, description="asking")
    assert [answer for _, answer in found] == [value, value]


def test_workers_use_one_thread() -> None:
    found = run_jobs(threads_of_torch, [0, 1], num_workers=2, description="asking")
    assert [answer for _, answer in found] == [1, 1]


def test_nothing_is_forked_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert start_method() == "spawn"


def test_nothing_is_forked_where_the_system_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert start_method() == "spawn"


INTERRUPTED = """
import os, signal, time
from multiprocessing import forkserver
from gradtx_hf.finetuning.worker_processes import start_method
start_method()
server = forkserver._forkserver._forkserver_pid
os.kill(server, signal.SIGINT)
time.sleep(2)
print(os.waitpid(server, os.WNOHANG) == (0, 0))
"""


@pytest.mark.slow
def test_an_interrupt_is_left_to_the_process_that_started_the_others() -> None:
    """Also while the libraries are being imported, which would end in a traceback beside the command's one line."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
