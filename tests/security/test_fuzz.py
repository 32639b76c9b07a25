"""Whatever a folder holds: it is used, or refused with one line of ours, and nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.security.fuzzers import KINDS, Fuzzer, make_fuzzers


QUICK_MUTANTS = {"adapter": 150, "translator": 25, "parts": 15, "auto": 25, "store": 75, "checkpoint": 75}
ALL_MUTANTS = 10_000
MOST_GROWTH_MB = 300


@pytest.fixture(scope="module")
def fuzzers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fuzzer]:
    return make_fuzzers(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave written files to the system: on a slow disk the flushes would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("kind", KINDS)
def test_any_mutant_is_used_or_refused_with_one_line(kind: str, fuzzers: dict[str, Fuzzer]) -> None:
    outcomes = Counter(fuzzers[kind].outcome(seed) for seed in range(QUICK_MUTANTS[kind]))

    assert outcomes["read"] > 0  # the mutants are near enough to good folders
    assert len(outcomes) > 1
    assert sum(outcomes.values()) - outcomes["read"] > QUICK_MUTANTS[kind] // 10


@pytest.mark.long
def test_ten_thousand_mutants_take_no_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.security.fuzz_memory", str(tmp_path), str(ALL_MUTANTS)]

    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=Path(__file__).parents[2])

    assert done.returncode == 0
    result = json.loads(done.stdout.splitlines()[-1])
    print("", *result.items(), sep="\n")  # noqa: T201
    assert sum(result["outcomes"].values()) == ALL_MUTANTS
    assert result["growth_mb"] < MOST_GROWTH_MB
    assert result["peak_growth_mb"] < MOST_GROWTH_MB
