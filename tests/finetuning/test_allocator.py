"""Freed memory is kept: an array like the last one costs no new pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gradtx_hf.finetuning import allocator


COUNT_FAULTS = """
import resource, runpy, sys, torch
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert runpy.run_path(sys.argv[2])["keep_freed_memory"]()
def step():
    held = [torch.ones(2**20) for _ in range(24)]
    while held:
        held.pop()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(allocator.platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_step_like_the_last_one_faults_on_few_pages() -> None:
    faults = {}
    for how in ("kept", "as it comes"):
        done = subprocess.run(
            [sys.executable, "-c", COUNT_FAULTS, how, allocator.__file__],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"},  # or glibc, where it is lucky, keeps them itself
        )
        faults[how] = int(done.stdout)
    assert 10 * faults["kept"] < faults["as it comes"], faults


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
