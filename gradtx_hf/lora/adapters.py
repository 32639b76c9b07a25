"""Read an adapter folder that PEFT wrote, and write one that stock PEFT loads.

The only place that knows PEFT's file names and tensor keys. Tensors are named ``<module path>.<factor>`` as in
``updates.layout``; PEFT's key of ``model.layers.0.self_attn.q_proj.lora_A`` is
``base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight``. Nothing here loads a language model.
"""

from __future__ import annotations

import copy
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from gradtx_hf.errors import AdapterError, MissingFileError
from gradtx_hf.lora.adalora import fold_adalora
from gradtx_hf.lora.adapter_config import (
    CONFIG_FILE,
    MAX_NAME_CHARACTERS,
    check_config,
    rank_of,
    read_config,
    scale_of,
)
from gradtx_hf.lora.patterns import fits
from gradtx_hf.updates import TOKEN_KINDS, BlockLayout, lies_in_layers
from gradtx_hf.updates.reading import ForeignFolder


WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
KEY_PREFIX = "base_model.model."
FACTOR_SUFFIXES = {
    "lora_A": ".weight",
    "lora_B": ".weight",
    "lora_embedding_A": "",
    "lora_embedding_B": "",
}
"""Factor name to what PEFT writes behind it in a key."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Number formats of factors that are read."""
MAX_MATCHING_SECONDS = 30
"""Processor time for the patterns of ranks and scales; a thousand names for a thousand modules take a few seconds."""
KEY_PATTERN = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?:(?P<factor>lora_(?:embedding_)?[AB]|lora_E|ranknum)(?:\.weight)?|base_layer\.(?:weight|bias))"
)
"""PEFT's keys; ``base_layer`` is the frozen embedding or head that PEFT copies beside its factors."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter as tensors, with PEFT's configuration.

    Attributes:
        name: The folder or repository as the user named it; messages use it.
        config: PEFT's configuration.
        tensors: Factors by name: ``lora_A`` ``[R, in]``, ``lora_B`` ``[out, R]``, unscaled, in the file's dtype.
    """

    name: str
    config: LoraConfig
    tensors: dict[str, Tensor]

    @cached_property
    def layout(self) -> BlockLayout:
        """The adapter's layout: one token per layer; one per layer and kind if embeddings or the head are adapted."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        in_layers = all(lies_in_layers(module) for module in _modules_of(self.tensors))
        return BlockLayout.from_shapes(shapes, token_kinds=None if in_layers else TOKEN_KINDS)

    @cached_property
    def scales(self) -> dict[str, float]:
        """Module path to the factor s of s·B·A: alpha / R, or alpha / √R with rsLoRA."""
        return {module: scale_of(module, self.config) for module in sorted(_modules_of(self.tensors))}

    @property
    def base_model(self) -> str:
        """The base model as the configuration names it, or an empty string."""
        return str(self.config.base_model_name_or_path or "")

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def load_adapter(folder: str | Path, *, name: str | None = None) -> Adapter:
    """Read a LoRA (or AdaLoRA) adapter folder written by PEFT.

    Args:
        folder: The folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        name: What messages call the adapter; the folder by default.

    Raises:
        MissingFileError: If the folder or a file is not there.
        AdapterError: If it is not an adapter, not a plain LoRA, damaged, or its tensors contradict its
            configuration.
    """
    folder = Path(folder)
    label = name or str(folder)
    if not folder.is_dir():
        raise MissingFileError(f"adapter folder '{label}' is not there. Give a folder that PEFT saved, or a repo id.")
    files = ForeignFolder(folder, f"'{label}'", AdapterError)
    values = read_config(files, label)
    config = check_config(values, label)
    tensors = _read_tensors(files, label)
    if values["peft_type"] == "ADALORA":
        tensors, config = fold_adalora(tensors, values, config, label=label)
    _check_tensors(tensors, config, label)
    return Adapter(label, config, tensors)


def save_adapter(folder: str | Path, *, config: LoraConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT would.

    Args:
        folder: The folder; made if need be. Files of these two names in it are replaced.
        config: PEFT's configuration; saved in inference mode.
        tensors: Factors by name, as in ``Adapter.tensors``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keyed = {peft_key(name): tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    saved_config = copy.copy(config)
    saved_config.inference_mode = True
    if isinstance(config.target_modules, set):  # which is written in an order that changes from process to process
        saved_config.target_modules = sorted(config.target_modules)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        save_file(keyed, Path(temporary) / WEIGHTS_FILE, metadata={"format": "pt"})
        saved_config.save_pretrained(temporary)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (Path(temporary) / name).replace(folder / name)


def peft_key(name: str) -> str:
    """Return PEFT's file key of a tensor named ``<module path>.<factor>``."""
    return f"{KEY_PREFIX}{name}{FACTOR_SUFFIXES[name.rpartition('.')[2]]}"


def is_adapter_folder(folder: str | Path) -> bool:
    """Return whether the folder holds an adapter configuration."""
    return (Path(folder) / CONFIG_FILE).is_file()


def _read_tensors(files: ForeignFolder, label: str) -> dict[str, Tensor]:
    """Return factors by name, after a look at all keys: the weights of a whole model are not read first."""
    if not files.has(WEIGHTS_FILE):
        pickled = [name for name in PICKLED_FILES if files.has(name)]
        if pickled:
            raise AdapterError(
                f"adapter '{label}' holds pickled weights ({pickled[0]}), which are not opened here. Convert them on a "
                "machine where you trust them: load with PEFT, then save_pretrained(path), which writes safetensors."
            )
        raise MissingFileError(
            f"adapter '{label}' has no {WEIGHTS_FILE}. Save it with PEFT's save_pretrained, which writes safetensors "
            "(pickled weights are never fetched nor opened)."
        )
    with files.open_tensors(WEIGHTS_FILE) as (opened, infos):
        return {name: opened.get_tensor(key) for name, key in _parse_keys(infos, label).items()}


def _parse_keys(keys: Iterable[str], label: str) -> dict[str, str]:
    """Return factors' keys by name; copies of frozen embeddings, which PEFT saves beside them, are left out."""
    parsed: dict[str, str] = {}
    copied = {}
    for key in keys:
        match = KEY_PATTERN.fullmatch(key) if key.isprintable() and len(key) <= MAX_NAME_CHARACTERS else None
        if match is None:
            raise AdapterError(
                f"adapter '{label}' holds {key[:MAX_NAME_CHARACTERS]!r}, which is no factor of a plain LoRA. "
                f"{_advice(key)}"
            )
        if match["factor"] is None:
            copied[match["module"]] = key
            continue
        name = f"{match['module']}.{match['factor']}"
        if name in parsed:
            raise AdapterError(f"adapter '{label}' holds {name!r} twice, under two keys. Save the adapter again.")
        parsed[name] = key
    modules = _modules_of(parsed)
    for module, key in copied.items():
        if module not in modules:
            raise AdapterError(f"adapter '{label}' holds {key!r}, which is no factor of a plain LoRA. {_advice(key)}")
    return dict(sorted(parsed.items()))


def _advice(key: str) -> str:
    if any(word in key for word in ("embed", "lm_head", "wte", "wpe")) and "lora" not in key:
        return "If it is a copy of the base model's, save with save_pretrained(path, save_embedding_layers=False)."
    if not key.startswith(KEY_PREFIX):
        return f"PEFT's keys begin with '{KEY_PREFIX}': save the adapter with PEFT's save_pretrained."
    return "Train a LoRA adapter without it."


def _check_tensors(tensors: Mapping[str, Tensor], config: LoraConfig, label: str) -> None:
    if not tensors:
        raise AdapterError(f"adapter '{label}' holds no LoRA tensor. Save the adapter again.")
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, label)
    ranks = _match_ranks(_modules_of(tensors), config, label)
    for name, tensor in tensors.items():
        module, _, factor = name.rpartition(".")
        is_a = factor.endswith("A")
        partner = f"{module}.{factor[:-1]}{'B' if is_a else 'A'}"
        if partner not in tensors:
            raise AdapterError(f"adapter '{label}' holds {name!r} but not {partner!r}. Save the adapter again.")
        rank, expected = tensor.shape[0 if is_a else 1], ranks[module]
        if rank != expected:
            raise AdapterError(
                f"tensor {name!r} of adapter '{label}' has rank {rank}, but {CONFIG_FILE} says {expected}. "
                "Weights and configuration belong to different adapters: copy both from one folder."
            )
        if rank > max(tensor.shape[1 if is_a else 0], tensors[partner].shape[0 if is_a else 1]):
            raise AdapterError(
                f"tensor {name!r} of adapter '{label}' has rank {rank}, more than its module has inputs and outputs. "
                "Train with a smaller rank."
            )
    _check_target_modules(_modules_of(tensors), config, label)


def _match_ranks(modules: Iterable[str], config: LoraConfig, label: str) -> dict[str, int]:
    """Return every module's rank; the patterns of the scales are matched too, so that they are known to be quick."""
    ranks, start = {}, time.process_time()
    for module in modules:
        ranks[module], _ = rank_of(module, config), scale_of(module, config)
        if time.process_time() - start > MAX_MATCHING_SECONDS:
            raise AdapterError(
                f"rank_pattern and alpha_pattern of '{label}' take too long to match. Name kinds of modules in them, "
                "such as 'q_proj'."
            )
    return ranks


def _check_tensor(name: str, tensor: Tensor, label: str) -> None:
    if name.rpartition(".")[2] not in FACTOR_SUFFIXES:
        raise AdapterError(f"adapter '{label}' holds {name!r}, which is no factor of a plain LoRA. Train without it.")
    if tensor.dtype not in DTYPES:
        raise AdapterError(
            f"tensor {name!r} of adapter '{label}' is {tensor.dtype}, expected one of "
            f"{', '.join(str(dtype) for dtype in DTYPES)}. Convert the adapter to one of them."
        )
    if tensor.ndim != 2:
        raise AdapterError(
            f"tensor {name!r} of adapter '{label}' has {tensor.ndim} axes, expected 2: convolution LoRA has no "
            "place in a language model's update. Train on linear layers."
        )
    if 0 in tensor.shape:
        raise AdapterError(
            f"tensor {name!r} of adapter '{label}' is empty, {list(tensor.shape)}: a sharded model was saved without "
            "gathering it. Save it from the whole model."
        )
    if not bool(tensor.float().isfinite().all()):  # nor may float64 hold what float32, which is written, cannot
        raise AdapterError(f"tensor {name!r} of adapter '{label}' holds NaN or infinite values. Train it again.")


def _check_target_modules(modules: set[str], config: LoraConfig, label: str) -> None:
    targets = config.target_modules
    if targets is None or targets == "all-linear":
        return
    named = f"target_modules={targets if isinstance(targets, str) else sorted(targets)}"
    wanted = set() if isinstance(targets, str) else set(targets)
    found = {module: _ends_of(module) for module in sorted(modules)}
    for module, ends in found.items():
        if not (fits(targets, module) if isinstance(targets, str) else ends & wanted):
            raise AdapterError(
                f"adapter '{label}' holds {module!r}, which {CONFIG_FILE} does not name in {named}. "
                "Weights and configuration belong to different adapters: copy both from one folder."
            )
    for target in sorted(wanted.difference(*found.values())):
        raise AdapterError(
            f"adapter '{label}' has no tensor for {target!r}, which {CONFIG_FILE} names in target_modules. "
            "Tensors are missing: save the adapter again."
        )


def _ends_of(module: str) -> set[str]:
    """Return a module's path, and what is left of it after each dot."""
    parts = module.split(".")
    return {".".join(parts[i:]) for i in range(len(parts))}


def _modules_of(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}
