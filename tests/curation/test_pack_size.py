from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from gradtx_hf.curation import memory
from gradtx_hf.curation.memory import free_bytes
from gradtx_hf.curation.pack_size import Trial, choose_pack_size


GB = 10**9
NO_LIMIT = 10**15


def chosen(speeds: list[float], *, num_runs: int, run_bytes: int = 1, budget: int = NO_LIMIT) -> tuple[int, list[int]]:
    """Return the size that is chosen, and those that were tried, where size 2**i takes speeds[i] steps a second."""
    tried: list[int] = []

    def trial(size: int) -> Trial:
        tried.append(size)
        return Trial(speeds[math.ceil(math.log2(size))], num_bytes=GB + size * run_bytes, model_bytes=GB)

    size = choose_pack_size(trial, num_runs=num_runs, budget=budget, description="trying")
    return size, tried


@pytest.mark.parametrize(
    ("speeds", "num_runs", "size", "tried"),
    [
        ([1, 2, 4, 8, 16], 16, 16, [1, 2, 4, 8, 16]),
        ([1, 1.9, 3.2, 3.4, 9], 300, 4, [1, 2, 4, 8]),
        ([1, 0.9], 300, 1, [1, 2]),
        ([1, 2, 4, 8], 7, 7, [1, 2, 4, 7]),
        ([1], 1, 1, [1]),
    ],
)
def test_size_doubles_until_it_no_longer_pays(speeds: list[float], num_runs: int, size: int, tried: list[int]) -> None:
    assert chosen(speeds, num_runs=num_runs) == (size, tried)


def test_size_that_would_not_fit_is_not_even_tried() -> None:
    speeds = [2.0**i for i in range(6)]

    # 1 GB of model; 4 runs take 0.4 GB, 8 would take 0.8 GB
    assert chosen(speeds, num_runs=32, run_bytes=GB // 10, budget=17 * GB // 10) == (4, [1, 2, 4])
    assert chosen(speeds, num_runs=32, run_bytes=GB // 10, budget=GB) == (1, [1])


def test_lack_of_memory_in_a_trial_ends_it() -> None:
    def trial(size: int) -> Trial | None:
        return Trial(float(size), num_bytes=1, model_bytes=0) if size < 4 else None

    assert choose_pack_size(trial, num_runs=8, budget=NO_LIMIT, description="trying") == 2


TAKE_AND_GIVE_BACK = """
import runpy, sys, torch
torch.set_num_threads(1)
with runpy.run_path(sys.argv[1])["measured_peak"]() as peak:
    before = peak.num_bytes
    taken = torch.ones(16 * 10**6)
    for _ in range(20):
        taken.mul_(1.0)
    del taken
print(peak.num_bytes - before)
"""


def test_peak_is_what_was_taken_and_given_back() -> None:
    # in a process of its own: a busy system may take memory back that this one has long not used
    command = [sys.executable, "-c", TAKE_AND_GIVE_BACK, memory.__file__]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert 0.9 * 64e6 < int(done.stdout) < 90e6


def test_limit_of_a_container_counts(tmp_path: Path) -> None:
    everything = free_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(tmp_path) > everything / 2

    (tmp_path / "memory.max").write_text(f"{200 * 10**6}\n")
    (tmp_path / "memory.current").write_text(f"{150 * 10**6}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {30 * 10**6}\n")

    assert free_bytes(tmp_path) == 80 * 10**6
