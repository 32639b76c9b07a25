"""What a client pays on the embedded pair, against fine-tuning the target directly. Processor seconds.

python tests/benchmarks/bench_costs.py [--pairs 5]

Client: the small model on its private lines (one run, and the mean of four parts), beside the large model on the same
lines by its own recipe; the share of time saved is the paper's claim (83 % for 0.5B to 14B on an A100), measured alike.
Every row is timed in turn with the large model's run, in one process with one thread. What a provider pays is in every
report's seconds (curation, training) and in bench_packing.py.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset

from gradtx_hf.client import fine_tune_client
from gradtx_hf.finetuning import FineTuningRecipe
from gradtx_hf.playground import Rule, make_lines, translator_path
from gradtx_hf.playground.recipes import source_recipe, target_recipe
from gradtx_hf.translation import PeftTranslator


NUM_LINES = 2048
NUM_PARTS = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="times that everything is run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = Dataset.from_list(make_lines([Rule("reverse", 3)], NUM_LINES, seed=0))
    translator = PeftTranslator.from_pretrained(translator_path())
    with tempfile.TemporaryDirectory() as scratch:
        client = Path(scratch) / "client"
        fine_tune(lines, client, side="source", num_parts=NUM_PARTS)
        ways: dict[str, Callable[[], object]] = {
            "client, small model, one run": lambda: fine_tune(lines, fresh(scratch), side="source"),
            f"client, small model, mean of {NUM_PARTS} parts": lambda: fine_tune(
                lines, fresh(scratch), side="source", num_parts=NUM_PARTS
            ),
            "translation": lambda: translator.translate(client),
        }
        print(f"{'what':<40} {'seconds':>8} {'large model':>12} {'time saved (min ... max)':>28}")
        for name, way in ways.items():
            pairs = [
                (timed(way), timed(lambda: fine_tune(lines, fresh(scratch), side="target")))
                for _ in range(arguments.pairs)
            ]
            saved = [1 - own / large for own, large in pairs]
            own, large = (statistics.median(column) for column in zip(*pairs, strict=True))
            middle = f"{statistics.median(saved):.1%} ({min(saved):.1%} ... {max(saved):.1%})"
            print(f"{name:<40} {own:>8.3f} {large:>12.3f} {middle:>28}")


def fine_tune(lines: Dataset, folder: Path, *, side: str, num_parts: int = 1) -> None:
    """Fine-tune one side of the embedded pair on private lines, as ``gradtx client`` does."""
    values = source_recipe() | {"num_parts": num_parts} if side == "source" else target_recipe()
    fine_tune_client(
        translator_path() / f"{side}_init",
        lines,
        recipe=FineTuningRecipe.from_dict(values),
        output_dir=folder,
        base_model=str(translator_path().parent / side),
    )


def fresh(scratch: str) -> Path:
    """Return a folder that is not there."""
    return Path(tempfile.mkdtemp(dir=scratch)) / "adapter"


def timed(way: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    begin = time.process_time()
    way()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
