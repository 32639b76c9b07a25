"""How fast an update store is read, what memory that takes, and what its bytes would shrink to.

1. Reading: a shuffled data loader over all pairs, in turns with plain safetensors that reads the same bytes twice:
   whole files one after the other, the easiest order there is, and row by row in a shuffled order, as the loader must.
   Seconds are the process's own (one thread, files in the page cache); ratios are smallest, median and largest.
2. Memory: anonymous resident memory of a fresh process that reads every pair of stores of growing size.
3. Bytes, of a curated store's first runs (``--store``): float32, bfloat16, differences between neighbouring snapshots
   compressed by zlib, and fewer snapshots with lines between them.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_store.py [--store CURATED]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from gradtx_hf.training import PairDataset
from gradtx_hf.training.data import collate_pairs
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import SIDES, UpdateStore


BATCH_SIZE = 32  # (paper Sec. 4)
NUM_TURNS = 9
SMALL = {"source": (4, 2000), "target": (6, 2000)}  # blocks and their size: 80 kB a pair
PAPER = {"source": (36, 12800), "target": (28, 22528)}  # 4.4 MB a pair
STORES = {
    "small, 1,000 pairs": (SMALL, 20, 50, "float32"),
    "small, 20,000 pairs": (SMALL, 200, 100, "float32"),
    "small, 20,000, bfloat16": (SMALL, 200, 100, "bfloat16"),
    "paper's, 200 pairs": (PAPER, 4, 50, "float32"),
}  # dims, shadow sets, snapshots of each, what they are stored as


def main() -> None:
    """Make stores, measure, and print the tables; with ``--measure``, what a fresh process does for the second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, help="a curated store, for the third table")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure is not None:
        _measure_memory(arguments.measure)
        return
    print(
        "store                          MB   loader MB/s   / safetensors in file order   in shuffled order", flush=True
    )
    memory = []
    for name, (dims, num_sets, num_snapshots, store_dtype) in STORES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "store"
            _make_store(folder, dims, num_sets, num_snapshots, store_dtype)
            _print_speed(name, folder)
            command = [sys.executable, __file__, "--measure", str(folder)]
            measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            memory.append(f"{name:27}   {measured}")
    print("\nstore                         anonymous MB with the first batch   at the end   of it the list of pairs")
    print("\n".join(memory))
    if arguments.store is not None:
        _print_bytes(UpdateStore.open(arguments.store))


def _make_store(
    folder: Path, dims: dict[str, tuple[int, int]], num_sets: int, num_snapshots: int, store_dtype: str
) -> None:
    layouts = {
        side: BlockLayout.from_shapes({f"layers.{n}.q_proj.lora_A": (2, size // 2) for n in range(num_blocks)})
        for side, (num_blocks, size) in dims.items()
    }
    store = UpdateStore.create(
        folder,
        plan={"num_shadow_sets": num_sets, "store_dtype": store_dtype},
        source_layout=layouts["source"],
        target_layout=layouts["target"],
    )
    for side in SIDES:
        for shadow_set in range(num_sets):
            store.write(side, shadow_set, torch.randn(num_snapshots, *dims[side]), {})
    store.finish()


def _print_speed(name: str, folder: Path) -> None:
    store = UpdateStore.open(folder)
    dataset = PairDataset(store, store.pairs)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, collate_fn=collate_pairs)
    files = sorted((folder / "shards").iterdir())
    num_bytes = sum(file.stat().st_size for file in files)

    def read_loader() -> None:
        for batch in loader:
            assert len(batch["source_blocks"]) <= BATCH_SIZE

    def read_plainly() -> None:
        for file in files:
            # load_file only maps it; the copy reads it, and into float32 as the loader does
            load_file(file)["tokens"].to(torch.float32, copy=True)

    def read_rows() -> None:
        rows = {
            side: [safe_open(f, framework="pt").get_slice("tokens") for f in files if f.name.startswith(side)]
            for side in SIDES
        }
        pairs = torch.tensor(store.pairs)[torch.randperm(len(store.pairs))].tolist()
        num_snapshots = {side: rows[side][0].get_shape()[0] for side in SIDES}
        for start in range(0, len(pairs), BATCH_SIZE):
            for side in SIDES:
                read = [rows[side][k][num_snapshots[side] + i] for k, i in pairs[start : start + BATCH_SIZE]]
                torch.stack(read).float()

    turns = [tuple(map(_seconds, (read_loader, read_plainly, read_rows))) for _ in range(NUM_TURNS)][1:]
    loader_seconds = min(ours for ours, _, _ in turns)
    ratios = [sorted(turn[column] / turn[0] for turn in turns) for column in (1, 2)]
    shown = [f"{ratio[0]:.2f} {statistics.median(ratio):.2f} {ratio[-1]:.2f}" for ratio in ratios]
    speed = num_bytes / loader_seconds / 1e6
    print(f"{name:27} {num_bytes / 1e6:6.0f}   {speed:11.0f}   {shown[0]:>21}   {shown[1]:>16}", flush=True)


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _measure_memory(folder: Path) -> None:
    store = UpdateStore.open(folder)
    before = _anonymous_bytes()
    dataset = PairDataset(store, store.pairs)
    listed = _anonymous_bytes() - before
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, collate_fn=collate_pairs)
    first = 0
    for batch in loader:
        first = first or _anonymous_bytes()
        del batch
    print(f"{first / 1e6:31.1f}   {_anonymous_bytes() / 1e6:10.1f}   {listed / 1e6:23.1f}")


def _anonymous_bytes() -> int:
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _print_bytes(store: UpdateStore) -> None:
    print("\nside     encoding                          bytes per snapshot   of float32   relative error")
    for side in SIDES:
        runs = [store.read(side, k) for k in list(store.shadow_sets(side))[:10]]
        plain = sum(run.numel() * 4 for run in runs)
        num_snapshots = sum(map(len, runs))
        for name, encode in ENCODINGS.items():
            sizes, errors = zip(*(encode(run) for run in runs), strict=True)
            print(
                f"{side}   {name:31} {sum(sizes) / num_snapshots:20.0f}   {sum(sizes) / plain:10.2f}   "
                f"{max(errors):14.1e}"
            )


def _float32(run: Tensor) -> tuple[int, float]:
    return run.numel() * 4, 0.0


def _bfloat16(run: Tensor) -> tuple[int, float]:
    return run.numel() * 2, _relative(run.bfloat16().float(), run)


def _zlib_float32(run: Tensor) -> tuple[int, float]:
    return _compressed(run.view(torch.int32)), 0.0


def _zlib_bit_differences(run: Tensor) -> tuple[int, float]:
    bits = run.contiguous().view(torch.int32)
    return _compressed(torch.cat([bits[:1], bits[1:] ^ bits[:-1]])), 0.0


def _zlib_bfloat16_bit_differences(run: Tensor) -> tuple[int, float]:
    bits = run.bfloat16().view(torch.int16)
    return _compressed(torch.cat([bits[:1], bits[1:] ^ bits[:-1]])), _relative(run.bfloat16().float(), run)


def _every_fourth(run: Tensor) -> tuple[int, float]:
    """Every fourth snapshot in float32, the rest as the line between its neighbours."""
    kept = torch.arange(len(run) - 1, -1, -4).flip(0)
    places = torch.arange(len(run)).clamp(int(kept[0]), int(kept[-1]))
    right = torch.searchsorted(kept, places).clamp(max=len(kept) - 1)
    left = (right - 1).clamp(min=0)
    share = ((places - kept[left]) / (kept[right] - kept[left]).clamp(min=1)).view(-1, 1, 1)
    return len(kept) * run[0].numel() * 4, _relative(run[kept[left]] * (1 - share) + run[kept[right]] * share, run)


def _compressed(bits: Tensor) -> int:
    """Return the size by zlib of integers whose first, second, … bytes stand together."""
    integers = bits.contiguous().numpy()
    planes = integers.view("u1").reshape(-1, integers.itemsize).T.copy()
    return len(zlib.compress(planes.tobytes(), 6))


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


ENCODINGS: dict[str, Callable[[Tensor], tuple[int, float]]] = {
    "float32": _float32,
    "float32, zlib": _zlib_float32,
    "float32 xor neighbour, zlib": _zlib_bit_differences,
    "bfloat16": _bfloat16,
    "bfloat16 xor neighbour, zlib": _zlib_bfloat16_bit_differences,
    "every fourth, line between": _every_fourth,
}


if __name__ == "__main__":
    main()
