"""What a translation costs at the paper's size (36 x 12,800 to 28 x 22,528, Flan-T5-Large), with random weights.

Prints, side by side from one run: the literal loop of paper Eq. 11 in float32 (encoder and whole prefix again for every
block, on plain T5 stacks), ours in each number format, with one client and with a batch of clients; then the peak
memory of a fresh process that loads the translator and translates. Seconds on a CPU are the process's own (one thread),
so that what else runs on the machine counts less; the smallest of several runs. The last column is how many products
with weights were done in a second: 1,061 GFLOP literally, 48 of which no batch saves, so that at one speed a batch
cannot be more than 22 times as fast per client. torch's own switch THP_MEM_ALLOC_ENABLE=1 puts weights on large pages,
from which they are read faster, where Linux offers them.

THP_MEM_ALLOC_ENABLE=1 OMP_NUM_THREADS=1 python tests/benchmarks/bench_translation.py
    [--folder KEPT] [--device cuda] [--dtypes float32 float16]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from gradtx_hf import PeftTranslator
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.model.fused_linear import has_float16_products
from gradtx_hf.updates import BlockLayout


FLAN_T5_LARGE = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
SHAPES = {"source": (36, 2048, 256), "target": (28, 3584, 512)}  # layers, hidden size, size of the values (3B, 7B)
NUM_CLIENTS = 8
NUM_RUNS = 2
ENCODED = ("EncDecAttention.k.weight", "EncDecAttention.v.weight")
"""What the decoder multiplies the encoder's output with."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    """Measure and print both tables; with ``--measure``, what a fresh process does for the second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where the translator is kept; made if it is not there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--measure", choices=list(DTYPES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure is not None:
        _translate_once(arguments.folder, arguments.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "translator"
        if not folder.exists():
            subprocess.run([sys.executable, "-c", _call("_make_translator", folder)], check=True)
        device = torch.device(arguments.device)
        dtypes = {name: DTYPES[name] for name in arguments.dtypes if name != "float16" or has_float16_products(device)}
        _print_seconds(folder, device, dtypes)
        if arguments.device == "cpu":
            _print_memory(folder, dtypes)


def _call(function: str, folder: Path) -> str:
    """Return a program that calls one of these functions in a process of its own, so that its memory is given back."""
    return (
        f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        f"import bench_translation; bench_translation.{function}(pathlib.Path({str(folder)!r}))"
    )


def _print_seconds(folder: Path, device: torch.device, dtypes: dict[str, torch.dtype]) -> None:
    source = torch.randn(NUM_CLIENTS, 36, 12800, generator=torch.Generator().manual_seed(1)).to(device)
    literal_seconds, reference, operations = _measure_literally(folder, source[:1])
    print(
        "mode                     clients   seconds   per client   x literal   x alone   relative error   "
        "x bandwidth bound   GFLOP/s"
    )
    print(
        f"Eq. 11 literally, float32      1   {literal_seconds:7.2f}   {literal_seconds:10.2f}         1.0 "
        f"{operations / literal_seconds:57.0f}",
        flush=True,
    )
    for name, dtype in dtypes.items():
        model = PeftTranslator.from_pretrained(folder, dtype=dtype, device=device).parts[""]
        decoder_bytes, operations = _bytes_read_per_block(model), _operations(model, literally=False)
        alone = 0.0
        for num_clients in (1, NUM_CLIENTS):
            seconds, generated = _measure(partial(model.generate_updates, source[:num_clients]), num_runs=NUM_RUNS)
            alone = alone or seconds
            error = float((generated[:1] - reference).norm() / reference.norm())
            bound = decoder_bytes * 28 / _bytes_per_second(device)
            print(
                f"ours, {name:9}          {num_clients:7d}   {seconds:7.2f}   {seconds / num_clients:10.2f}   "
                f"{literal_seconds * num_clients / seconds:9.1f}   {alone * num_clients / seconds:7.1f}   "
                f"{error:14.1e}   {seconds / bound:17.2f}   {operations * num_clients / seconds:7.0f}",
                flush=True,
            )
        del model


def _measure_literally(folder: Path, source: Tensor) -> tuple[float, Tensor, float]:
    """Return the seconds, what was generated, and the operations in 1e9."""
    model = GradTransformerModel.from_folder(folder, name=str(folder)).to(source.device).eval()
    seconds, generated = _measure(lambda: _generate_literally(model, source), num_runs=1)
    return seconds, generated, _operations(model, literally=True)


@torch.no_grad()
def _generate_literally(model: GradTransformerModel, source: Tensor) -> Tensor:
    """Generate as paper Eq. 11 is written: block j is W_out φ(W_S_emb δ_S, W_T_emb δ_T^{<j}), all of it every time."""
    standardised = model._standardise_source(source)
    inputs = model._start(len(source))  # [B, 1, H]
    blocks: list[Tensor] = []
    for n in range(model.target_layout.num_blocks):
        encoded = model.encoder(inputs_embeds=model.W_S_emb(standardised)).last_hidden_state
        hidden = model.decoder(inputs_embeds=inputs, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        blocks.append(model.W_out.project_block(hidden[:, -1:], index=n))
        embedded = model.W_T_emb(torch.cat(blocks, dim=1))
        inputs = torch.cat([inputs[:, :1], embedded], dim=1)
    return model._to_own_units(torch.cat(blocks, dim=1))


def _measure(run: Callable[[], Tensor], *, num_runs: int) -> tuple[float, Tensor]:
    """Return the smallest time of a call in seconds, and what it returned."""
    result, times = run(), []
    for _ in range(num_runs):
        start = _now(result.device)
        result = run()
        times.append(_now(result.device) - start)
    return min(times), result


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _bytes_read_per_block(model: GradTransformerModel) -> int:
    """Return the bytes of all weights that are needed again for every block; those for the encoder's output are not."""
    return sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in model.state_dict().items()
        if name.startswith(("decoder.", "W_T_emb.", "W_out.")) and not name.endswith(ENCODED)
    )


def _operations(model: GradTransformerModel, *, literally: bool) -> float:
    """Return the multiplications and additions with weights for one client, in 1e9."""
    prefixes = 28 * 29 // 2  # blocks of all prefixes together
    rows = {"encoder.": 36, "W_S_emb.": 36, "decoder.": 28, "W_out.": 28}  # W_T_emb is folded into one small map
    if literally:
        rows = {"encoder.": 36 * 28, "W_S_emb.": 36 * 28, "decoder.": prefixes, "W_T_emb.": prefixes, "W_out.": 28}
    return sum(
        2e-9 * tensor.numel() * (rows["encoder."] if name.endswith(ENCODED) else times)
        for name, tensor in model.state_dict().items()
        for prefix, times in rows.items()
        if name.startswith(prefix) and tensor.ndim == 2
    )


def _bytes_per_second(device: torch.device) -> float:
    """Return how fast this device reads memory: the best of several sums over 1 GB (on a CPU, by one thread)."""
    values = torch.ones(1 << 28, device=device)
    seconds, _ = _measure(lambda: values.sum(), num_runs=5)
    return values.numel() * 4 / seconds


def _print_memory(folder: Path, dtypes: dict[str, torch.dtype]) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    print(f"\npeak memory of a fresh process, limit 1.3 x {weights / 1e9:.2f} GB of weights + 0.6 GB = ", end="")
    print(f"{1.3 * weights / 1e9 + 0.6:.2f} GB")
    for name in dtypes:
        command = [sys.executable, __file__, "--folder", str(folder), "--measure", name]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def _translate_once(folder: Path, dtype: str) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the process that started this one
    before = _peak_bytes()
    start = time.process_time()
    translator = PeftTranslator.from_pretrained(folder, dtype=DTYPES[dtype])
    loaded = time.process_time()
    translator.translate(folder / "client")
    print(
        f"{dtype:9}  imports {before / 1e9:.2f} GB, peak {_peak_bytes() / 1e9:.2f} GB; CPU seconds: loading "
        f"{loaded - start:.1f}, translating {time.process_time() - loaded:.1f}"
    )


def _peak_bytes() -> int:
    """Return the peak of resident memory, file pages among it; ``ru_maxrss`` would count the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _make_translator(folder: Path) -> None:
    """Write a translator of the paper's size with random weights, and a client's adapter inside its folder."""
    torch.manual_seed(0)
    inits = {side: _make_adapter(folder.with_name(f"{folder.name}_{side}"), side) for side in SHAPES}
    layouts: list[BlockLayout] = [inits[side].layout for side in SHAPES]
    model = GradTransformerModel(GradTransformerConfig.from_layouts(*layouts, t5=FLAN_T5_LARGE))
    PeftTranslator(model, inits["source"], inits["target"]).save_pretrained(folder)
    moved = {name: tensor + torch.randn_like(tensor) for name, tensor in inits["source"].tensors.items()}
    save_adapter(folder / "client", config=inits["source"].config, tensors=moved)


def _make_adapter(folder: Path, side: str) -> Adapter:
    num_layers, hidden_size, value_size = SHAPES[side]
    config = LoraConfig(
        r=2, lora_alpha=32, target_modules=["q_proj", "v_proj"], base_model_name_or_path=side, task_type="CAUSAL_LM"
    )
    tensors = {}
    for n in range(num_layers):
        for module, size in (("q_proj", hidden_size), ("v_proj", value_size)):
            name = f"model.layers.{n}.self_attn.{module}"
            tensors |= {f"{name}.lora_A": torch.randn(2, hidden_size), f"{name}.lora_B": torch.zeros(size, 2)}
    save_adapter(folder, config=config, tensors=tensors)
    return load_adapter(folder)


if __name__ == "__main__":
    main()
