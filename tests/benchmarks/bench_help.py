"""What ``gradtx --help`` costs over importing the package: pairs of fresh processes, side by side.

python tests/benchmarks/bench_help.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


NUM_PAIRS = 7
COMMANDS = {
    "import gradtx_hf": [sys.executable, "-c", "import gradtx_hf"],
    "gradtx --help": [sys.executable, "-m", "gradtx_hf.cli.main", "--help"],
}


def main() -> None:
    """Run the pairs and print a table."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(NUM_PAIRS + 1):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begin)
    for name, values in seconds.items():
        counted = values[1:]  # the first pair warms the file cache
        print(f"{name:<18} median {statistics.median(counted):.2f} s  ({min(counted):.2f} … {max(counted):.2f})")
    differences = [b - a for a, b in zip(*(values[1:] for values in seconds.values()), strict=True)]
    print(f"difference, pair by pair: median {statistics.median(differences):+.2f} s")


if __name__ == "__main__":
    main()
