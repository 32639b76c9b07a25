"""Milliseconds per row of a private run, in both modes of clipping, beside the plain run: in pairs.

The embedded source model, its adapter of rank 2, lines of a playground's rule. Both runs are whole: trainer, optimizer,
data and all, less what a run of one step takes. Processor time, one thread.

python tests/benchmarks/bench_dp.py [NUM_PAIRS]
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PrivacySettings,
    add_adapter,
    fine_tune,
    load_language_model,
    tokenize_examples,
)
from gradtx_hf.finetuning.dp import fine_tune_private
from gradtx_hf.finetuning.privacy import ClippingMode
from gradtx_hf.playground import Rule, make_lines, source_path


NUM_PAIRS = 3
NUM_ROWS = 512
RECIPE = FineTuningRecipe(num_steps=21, batch_size=32, learning_rate=1e-3, max_length=32)
MODES: tuple[ClippingMode, ...] = ("ghost", "per_sample")
Run = Callable[[FineTuningRecipe], object]


def main() -> None:
    """Run the pairs and print a table."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    num_pairs = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_PAIRS
    language_model, tokenizer = load_language_model(str(source_path()))
    model = add_adapter(language_model, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0)
    lines = make_lines([Rule("reverse", 3)], NUM_ROWS, seed=0)
    rows = tokenize_examples(Dataset.from_list(lines), tokenizer, max_length=RECIPE.max_length)
    print("clipping       private    plain   ratio (smallest … largest)   in milliseconds per row")
    for mode in MODES:
        plain, private = _runs(model, tokenizer, rows, mode)
        _milliseconds(private), _milliseconds(plain)  # what is loaded at first use
        pairs = [(_milliseconds(private), _milliseconds(plain)) for _ in range(num_pairs)]
        ratios = [slow / fast for slow, fast in pairs]
        slow, fast = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(
            f"{mode:12}  {slow:8.3f} {fast:8.3f}   {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f} … {max(ratios):.2f})",
            flush=True,
        )


def _runs(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, mode: ClippingMode) -> tuple[Run, Run]:
    privacy = PrivacySettings(noise_multiplier=1.0, clipping=mode)

    def plain(recipe: FineTuningRecipe) -> object:
        return fine_tune(model, rows, tokenizer=tokenizer, recipe=recipe, seed=0)

    def private(recipe: FineTuningRecipe) -> object:
        return fine_tune_private(model, rows, tokenizer=tokenizer, recipe=recipe, privacy=privacy)

    return plain, private


def _milliseconds(run: Run) -> float:
    """Return the time per row of all steps but the first."""
    one = replace(RECIPE, num_steps=1)
    seconds = [_seconds(run, recipe) for recipe in (one, RECIPE)]
    return 1000 * (seconds[1] - seconds[0]) / ((RECIPE.num_steps - 1) * RECIPE.batch_size)


def _seconds(run: Run, recipe: FineTuningRecipe) -> float:
    start = time.process_time()
    run(recipe)
    return time.process_time() - start


if __name__ == "__main__":
    main()
