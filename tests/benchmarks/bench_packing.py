"""Packs of K runs against loops of single runs: same data, steps and final adapters, side by side in one process.

Once against plain SFTTrainer, as a user would run it today, once against ``fine_tune``, which leaves out TRL's metrics.

python tests/benchmarks/bench_packing.py [--pairs 5] [--sizes 4 16] [--steps 100]
python tests/benchmarks/bench_packing.py --device cuda --model-shape qwen2.5-0.5b --sizes 4 8 16

The last columns say how far the adapters of the packs and of plain SFTTrainer are apart after the last step, at most in
one element, and how far they moved. On a GPU the model is random, in bfloat16, and a pack's share of the card's peak
(that of a large product of matrices, measured first) is printed beside it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    adapter_state,
    add_adapter,
    fine_tune,
    fine_tune_pack,
    load_language_model,
    reset_adapter,
)
from gradtx_hf.playground import source_path


WORKLOADS = {"cpu": ((2, 16), (8, 32)), "cuda": ((1, 512),)}
"""By device: rows of a batch, and tokens of a row."""
NUM_UNPACKED = 2  # plain runs beside every pack
NUM_ROWS = 128
LEARNING_RATE = 1e-3
RANK, ALPHA, MODULES = 2, 16, ("q_proj", "v_proj")


@dataclass(frozen=True)
class Side:
    """One workload, both ways.

    Attributes:
        start: The adapter that all runs start from.
        plain: The first so many runs, one after the other, with plain SFTTrainer; returns their adapters.
        lean: The same with ``fine_tune``.
        packed: The same at once.
    """

    start: dict[str, Tensor]
    plain: Callable[[int], list[dict[str, Tensor]]]
    lean: Callable[[int], list[dict[str, Tensor]]]
    packed: Callable[[int], list[dict[str, Tensor]]]


def main() -> None:
    """Print a table of all workloads and sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model-shape", choices=("embedded", "qwen2.5-0.5b"), default="embedded")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model, tokenizer = (
        load_language_model(str(source_path())) if given.model_shape == "embedded" else _qwen(given.device)
    )
    peak = _peak_flops() if given.device == "cuda" else None
    flops = 4 * sum(p.numel() for p in model.parameters())  # of a token: forward, and backward without weights
    print("                       ms per adapter-step      ratio: median (smallest … largest)")
    print("rows tokens   K   packed   plain    lean   plain : packed        lean : packed         apart    moved")
    for num_rows, num_tokens in WORKLOADS[given.device]:
        side = _workload(model, tokenizer, num_rows, num_tokens, num_steps=given.steps, num_runs=max(given.sizes))
        side.plain(1), side.lean(1), side.packed(2)  # what is loaded or compiled at first use
        for size in given.sizes:
            times = []
            for _ in range(given.pairs):
                packed, results = _timed(side.packed, size)
                plain, expected = _timed(side.plain, NUM_UNPACKED)
                lean, _ = _timed(side.lean, NUM_UNPACKED)
                times.append([seconds / given.steps for seconds in (packed, plain, lean)])
            packed, plain, lean = (1000 * statistics.median(values) for values in zip(*times, strict=True))
            share = f"  {flops * num_rows * num_tokens / packed * 1000 / peak:.0%} of the peak" if peak else ""
            print(
                f"{num_rows:4d} {num_tokens:6d} {size:3d} {packed:8.2f} {plain:7.2f} {lean:7.2f}   "
                f"{_ratio([b / a for a, b, _ in times])}   {_ratio([c / a for a, _, c in times])}   "
                f"{max(map(_difference, results, expected)):.1e}  {_difference(expected[0], side.start):.1e}{share}",
                flush=True,
            )


def _workload(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    num_rows: int,
    num_tokens: int,
    *,
    num_steps: int,
    num_runs: int,
) -> Side:
    recipe = FineTuningRecipe(
        num_steps=num_steps,
        batch_size=num_rows,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        max_length=num_tokens,
    )
    model = add_adapter(copy.deepcopy(base), rank=RANK, alpha=ALPHA, target_modules=MODULES, seed=0)
    start: dict[str, Tensor] = adapter_state(model)
    scales = {name.rpartition(".")[0]: ALPHA / RANK for name in start}
    tokens = [_random_rows(base.config.vocab_size, num_tokens, seed=k) for k in range(num_runs)]
    is_on_gpu = base.device.type == "cuda"

    def plain(k: int) -> None:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            trainer = SFTTrainer(
                model=model,
                args=SFTConfig(
                    output_dir=folder,
                    max_steps=num_steps,
                    per_device_train_batch_size=num_rows,
                    learning_rate=LEARNING_RATE,
                    lr_scheduler_type="constant",
                    weight_decay=recipe.weight_decay,
                    max_grad_norm=recipe.max_grad_norm,
                    max_length=num_tokens,
                    seed=k,
                    use_cpu=not is_on_gpu,
                    bf16=is_on_gpu,
                    activation_checkpointing=False,
                    dataset_kwargs={"skip_prepare_dataset": True},
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=tokens[k],
                processing_class=tokenizer,
                data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
            )
            trainer.train()

    def lean(k: int) -> None:
        fine_tune(model, tokens[k], tokenizer=tokenizer, recipe=recipe, seed=k)

    def loop(run: Callable[[int], None], size: int) -> list[dict[str, Tensor]]:
        adapters = []
        for k in range(size):
            reset_adapter(model, start)
            run(k)
            adapters.append(adapter_state(model))
        return adapters

    def packed(size: int) -> list[dict[str, Tensor]]:
        runs = [PackedRun(f"run {k}", start, tokens[k], k) for k in range(size)]
        results = fine_tune_pack(base, runs, tokenizer=tokenizer, recipe=recipe, scales=scales)
        return [result.tensors for result in results]

    return Side(start, partial(loop, plain), partial(loop, lean), packed)


def _random_rows(vocabulary: int, num_tokens: int, *, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (NUM_ROWS, num_tokens), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def _qwen(device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model of Qwen2.5-0.5B's shape with random weights, and any tokenizer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).to(device, torch.bfloat16), load_language_model(str(source_path()))[1]


def _peak_flops() -> float:
    """Return the floating-point operations per second of a large product of matrices in bfloat16."""
    size, times = 8192, 30
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def multiply(times: int) -> list[dict[str, Tensor]]:
        for _ in range(times):
            a @ b
        return []

    multiply(5)
    return 2 * size**3 / _timed(multiply, times)[0]


def _timed(function: Callable[[int], list[dict[str, Tensor]]], number: int) -> tuple[float, list[dict[str, Tensor]]]:
    """Return the seconds per unit of a function that does so many, and its result."""
    begin = _now()
    result = function(number)
    return (_now() - begin) / number, result


def _now() -> float:
    """Return the time in seconds: on a CPU that of this process of one thread, which others do not lengthen."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _ratio(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} … {max(ratios):.2f})".ljust(20)


def _difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return max(float((first[name].cpu() - second[name].cpu()).abs().max()) for name in second)


if __name__ == "__main__":
    main()
