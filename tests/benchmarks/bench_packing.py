"""What a step of one adapter costs in a pack of K, against runs one after the other: side by side, in pairs.

python tests/benchmarks/bench_packing.py [NUM_PAIRS]
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    adapter_state,
    add_adapter,
    fine_tune,
    fine_tune_pack,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.playground import Rule, make_lines, source_path, target_path


SIZES = (1, 4, 16, 32)
NUM_PAIRS = 3
NUM_UNPACKED = 2  # runs one after the other beside every pack
RECIPES = {
    "source": FineTuningRecipe(num_steps=60, warmup_steps=20, batch_size=8, learning_rate=8e-3, max_length=32),
    "target": FineTuningRecipe(num_steps=30, warmup_steps=20, batch_size=16, learning_rate=5e-3, max_length=32),
}


def main() -> None:
    """Run the pairs on both sides and print a table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    num_pairs = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_PAIRS
    print("side      K   packed   unpacked   ratio (smallest … largest)    in ms per adapter-step")
    for side, path in (("source", source_path()), ("target", target_path())):
        one, pack = _workloads(path, RECIPES[side])
        _milliseconds(one, [0]), _milliseconds(pack, [1])  # what is loaded or compiled at first use
        for size in SIZES:
            pairs = [
                (_milliseconds(pack, [size]) / size, _milliseconds(one, range(NUM_UNPACKED)) / NUM_UNPACKED)
                for _ in range(num_pairs)
            ]
            packed, unpacked = (
                statistics.median(values) / RECIPES[side].num_steps for values in zip(*pairs, strict=True)
            )
            ratios = [b / a for a, b in pairs]
            print(
                f"{side}  {size:3d}   {packed:6.2f}   {unpacked:8.2f}   {statistics.median(ratios):5.2f} "
                f"({min(ratios):.2f} … {max(ratios):.2f})",
                flush=True,
            )


def _workloads(path: Path, recipe: FineTuningRecipe) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """Return run k alone as ``fine_tune`` does it, and a pack of K."""
    base, tokenizer = load_language_model(str(path))
    model = add_adapter(
        load_language_model(str(path))[0], rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0
    )
    start: dict[str, Tensor] = adapter_state(model)
    scales = {name.rpartition(".")[0]: 8.0 for name in start}
    tokens = [
        tokenize_examples(
            Dataset.from_list(make_lines([Rule("reverse", k % 12)], 256, seed=k)), tokenizer, max_length=32
        )
        for k in range(max(SIZES))
    ]

    def one(k: int) -> object:
        reset_adapter(model, start)
        return fine_tune(model, tokens[k], tokenizer=tokenizer, recipe=recipe, seed=k)

    def pack(size: int) -> object:
        runs = [PackedRun(f"run {k}", start, tokens[k], k) for k in range(size)]
        return fine_tune_pack(base, runs, tokenizer=tokenizer, recipe=recipe, scales=scales)

    return one, pack


def _milliseconds(function: Callable[[int], object], arguments: Iterable[int]) -> float:
    begin = time.perf_counter()
    for argument in arguments:
        function(argument)
    return 1000 * (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
