"""Damage to an adapter's or a translator's folder, as an attacker or a bad disk would do it; the same for a seed."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Link:
    """A symbolic link to a path."""

    target: str


@dataclass(frozen=True)
class Pipe:
    """A named pipe, which would block whoever opens it."""


Files = dict[str, bytes | Link | Pipe]


class Exploit:
    """Unpickled, it would start a process."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


HUGE = [0, -1, 1, 2**31, 2**63, 2**70, 10**400, 1e308, 1e-320, -0.0, float("nan"), float("inf"), float("-inf")]
# fmt: off
ODD: list[Any] = [
    None, True, False, "", "x" * 5000, "\x1b[2J", "a\nb", "\ud800", "../../etc/passwd", "/etc/passwd", [], {}, [[]],
    {"a": {}}, "https://user:password@example.com/x", "hf_" + "a" * 34, "evil/repository", "(a+)+$", "(.*.*.*.*)*x",
    "(?P<x>", "[[a]", "float16", "int8", "load", "torch.float32", "LORA", "grad_transformer", "all-linear",
    "kernels-community/flash-attn",
]
# fmt: on
HOSTILE_FIELDS: dict[str, Any] = {
    "auto_map": {"AutoModel": "evil--modeling.Model", "AutoConfig": "evil/repository--configuration.Config"},
    "trust_remote_code": True,
    "custom_pipeline": "evil/pipeline",
    "_name_or_path": "evil/repository",
    "name_or_path": "/etc",
    "base_model_name_or_path": "evil/repository",
    "parent_library": "os",
    "auto_mapping": {"base_model_class": "system", "parent_library": "os"},
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation_internal": "evil/kernel",
    "_experts_implementation": "evil/kernel",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "transformers_weights": "../../outside/model.safetensors",
    "configuration_files": ["../../outside/config.1.0.0.json"],
    "fusion_config": {"everything": True},
    "num_labels": 2**40,
    "per_layer_config": {"0": {"d_model": 2}},
    "torch_dtype": "load",
    "dtype": "float99",
    "subfolder": "../..",
    "revision": "../../../main",
    "__class__": "os",
    "model_type": "llama",
    "id2label": {"x": 1},
    "rope_scaling": {"type": "yarn"},
    "architectures": 3,
    "peft_version": {"a": 1},
    "runtime_config": {"ephemeral_gpu_offload": True},
    "loftq_config": {"loftq_bits": 4},
    "target_modules": "(a+)+$",
    "rank_pattern": {"(a|a)*": 2, "(.*)*": 3},
    "alpha_pattern": {".*": 1e-300},
}
# fmt: off
RAW_JSON = [
    b"", b"null", b"[]", b"{", b"[" * 50_000, b'{"a":' * 500 + b"1" + b"}" * 500, b"1" * 6000, b"\xff\xfe{}",
    b'{"a": 1, "a": 2}', b'{"a":NaN,"b":1e999}', b'"' + b"x" * 100_000 + b'"', b" " * (9 << 20),
]
# fmt: on


class Mutator:
    """Changes a folder's files in one to three ways.

    Args:
        files: The good folder's.
        outside: A folder beside it that nothing may be read from, with files of the same names.
    """

    def __init__(self, files: Mapping[str, bytes], outside: Path) -> None:
        self.files, self.outside = dict(files), outside

    def mutate(self, seed: int) -> Files:
        """Return the files of one mutant."""
        rng = random.Random(seed)
        files: Files = dict(self.files)
        acts = [self._flip, self._cut, self._swap, self._remove, self._add, self._link, self._raw, self._header_length]
        acts += [self._fields] * 3 + [self._header] * 2 + [self._values]
        for act in rng.choices(acts, k=rng.choice([1, 1, 2, 3])):
            act(files, rng)
        return files

    def _pick(self, files: Files, rng: random.Random, suffix: str = "") -> str | None:
        names = sorted(name for name, held in files.items() if isinstance(held, bytes) and name.endswith(suffix))
        return rng.choice(names) if names else None

    def _flip(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng)
        if name is not None and files[name]:
            content = bytearray(files[name])  # type: ignore[arg-type]
            end = min(len(content), rng.choice([9, 200, 2000, len(content)]))
            for _ in range(rng.randint(1, 6)):
                content[rng.randrange(end)] = rng.choice([rng.randrange(256), *b'0179[]{}":,.-eE'])
            files[name] = bytes(content)

    def _cut(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng)
        if name is not None:
            content = bytes(files[name])  # type: ignore[arg-type]
            files[name] = rng.choice([content[: rng.randrange(len(content) + 1)], content + b"\0" * 64, content * 2])

    def _fields(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng, ".json")
        if name is not None:
            values = _parsed(bytes(files[name]))  # type: ignore[arg-type]
            for _ in range(rng.randint(1, 3)):
                values = _changed(values, rng)
            if isinstance(values, dict) and rng.random() < 0.5:  # otherwise a changed layout comes no further
                values.update(dict.fromkeys(("source_fingerprint", "target_fingerprint")))
            files[name] = json.dumps(values).encode()

    def _values(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng, ".safetensors")
        if name is not None:
            content = bytearray(files[name])  # type: ignore[arg-type]
            start = 8 + int.from_bytes(content[:8], "little")
            num_values = (len(content) - start) // 4
            if num_values > 0:
                place, length = rng.randrange(num_values), rng.randint(1, num_values)
                value = struct.pack("<f", rng.choice([0.0, 3e38, -3e38, 1e-45, 1e19, -1.0, 1.0]))
                length = min(length, num_values - place)
                content[start + 4 * place : start + 4 * (place + length)] = value * length
            files[name] = bytes(content)

    def _header(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng, ".safetensors")
        if name is not None:
            content = bytes(files[name])  # type: ignore[arg-type]
            size = int.from_bytes(content[:8], "little")
            values = _parsed(content[8 : 8 + size])
            for _ in range(rng.randint(1, 3)):
                values = _changed(values, rng)
            header = json.dumps(values).encode()
            if rng.random() < 0.1 and header.startswith(b'{"'):
                header = b"{" + header[1:-1] + b"," + header[1:]  # every key twice
            data = content[8 + size :] if rng.random() < 0.8 else b""
            files[name] = len(header).to_bytes(8, "little") + header + data

    def _header_length(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng, ".safetensors")
        if name is not None:
            length = rng.choice([0, 1, 2, 100, 2**20, 9 << 20, 99 << 20, 2**31, 2**40, 2**63, 2**64 - 1])
            files[name] = length.to_bytes(8, "little") + bytes(files[name])[8:]  # type: ignore[arg-type]

    def _swap(self, files: Files, rng: random.Random) -> None:
        first, second = self._pick(files, rng), self._pick(files, rng)
        if first is not None and second is not None:
            files[first], files[second] = files[second], files[first]

    def _remove(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng)
        if name is not None:
            del files[name]

    def _add(self, files: Files, rng: random.Random) -> None:
        shards = {
            "metadata": {},
            "weight_map": {"a": "../../outside/model.safetensors", "b": "model-00001-of-00002.safetensors"},
        }
        extra: dict[str, bytes] = {
            "pytorch_model.bin": pickle.dumps(Exploit()),
            "adapter_model.bin": pickle.dumps(Exploit()),
            "training_args.bin": pickle.dumps(Exploit()),
            ".metadata": pickle.dumps(Exploit()),
            "modeling.py": b"import os; os.system('true')",
            "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "evil/repository", "r": 2}',
            "config.json": b'{"model_type": "llama", "auto_map": {"AutoModel": "modeling.Model"}}',
            "generation_config.json": b'{"trust_remote_code": true}',
            "model.safetensors.index.json": json.dumps(shards).encode(),
            "parts/evil/config.json": b"{}",
            "input_distance.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
            "name\x1b[2J\n.json": b"{}",
            os.fsdecode(b"\xff.json"): b"{}",
        }
        name = rng.choice(sorted(extra))
        folder = rng.choice(["", "source_init/"])
        files[folder + name] = extra[name]
        if name.startswith("model.safetensors"):
            files.pop(f"{folder}model.safetensors", None)

    def _link(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng)
        if name is not None:
            outside = str(self.outside / name)
            target = rng.choice([outside, outside, "/dev/zero", "/etc/passwd", Path(name).name, "nowhere", "/"])
            files[name] = rng.choice([Link(target), Link(target), Link(target), Pipe()])

    def _raw(self, files: Files, rng: random.Random) -> None:
        name = self._pick(files, rng, ".json")
        if name is not None:
            files[name] = rng.choice(RAW_JSON)


def write_files(folder: Path, files: Files) -> None:
    """Write a mutant's files into an empty folder."""
    for name, held in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(held, Link):
            path.symlink_to(held.target)
        elif isinstance(held, Pipe):
            os.mkfifo(path)
        else:
            path.write_bytes(held)


def _parsed(content: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return {}


def _changed(values: Any, rng: random.Random) -> Any:  # noqa: ANN401 - any JSON value
    """Return JSON values with one place changed, at any depth."""
    if isinstance(values, dict) and rng.random() < 0.15:
        field = rng.choice(sorted(HOSTILE_FIELDS))
        return {**values, field: HOSTILE_FIELDS[field]}
    if isinstance(values, dict) and values and rng.random() < 0.85:
        key = rng.choice(sorted(values))
        kind = rng.random()
        if kind < 0.1:
            return {name: value for name, value in values.items() if name != key}
        if kind < 0.2:
            return {str(rng.choice(ODD)) if name == key else name: value for name, value in values.items()}
        return {**values, key: _changed(values[key], rng)}
    if isinstance(values, list) and values and rng.random() < 0.85:
        place = rng.randrange(len(values))
        kind = rng.random()
        if kind < 0.1:
            return values[:place] + values[place + 1 :]
        if kind < 0.2:
            return values + values[: place + 1] * rng.choice([1, 1000])
        return [*values[:place], _changed(values[place], rng), *values[place + 1 :]]
    if isinstance(values, int) and rng.random() < 0.5:
        return values + rng.choice([-1, 1, values, 1000, 10**6, 10**9])
    return rng.choice([*HUGE, *ODD])
