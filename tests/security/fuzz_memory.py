"""``python -m tests.security.fuzz_memory FOLDER COUNT``: mutants of all kinds in a process of their own.

It prints one JSON object: outcomes, and by how much the process grew after a warm-up. What it holds at the end, and the
most that it held at any time (Linux's ``VmRSS`` and ``VmHWM``, of this process alone).
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tests.conftest  # noqa: F401 - sets the environment before transformers is imported
from tests.security.fuzzers import KINDS, make_fuzzers


WARM_UP = 300
FIRST_SEED = 1000


def memory_mb(key: str) -> int:
    """Return what Linux says of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) // 1024


def main(arguments: Sequence[str]) -> None:
    """Run the mutants and print what came of them."""
    folder, count = Path(arguments[0]), int(arguments[1])
    os.fsync = lambda fd: None
    fuzzers = make_fuzzers(folder)
    outcomes: Counter[str] = Counter()
    before = memory_mb("VmRSS")
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        outcomes[f"{kind}: {fuzzers[kind].outcome(FIRST_SEED + number)}"] += 1
        if number == WARM_UP:
            before = memory_mb("VmRSS")
    growth = {"growth_mb": memory_mb("VmRSS") - before, "peak_growth_mb": memory_mb("VmHWM") - before}
    sys.stdout.write(json.dumps({**growth, "outcomes": dict(sorted(outcomes.items()))}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # without waiting for the tests' Hub


if __name__ == "__main__":
    main(sys.argv[1:])
