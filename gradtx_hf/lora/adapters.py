"""Read an adapter folder that PEFT wrote, and write one that stock PEFT loads.

The only place that knows PEFT's file names and tensor keys. Tensors are named ``<module path>.<factor>`` as in
``updates.layout``; PEFT's key of ``model.layers.0.self_attn.q_proj.lora_A`` is
``base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight``. Nothing here loads a language model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gradtx_hf.errors import AdapterError, MissingFileError
from gradtx_hf.updates import TOKEN_KINDS, BlockLayout


CONFIG_FILE = "adapter_config.json"
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
LFS_POINTER = b"version https://git-lfs"

CONVERTIBLE_TYPES = frozenset(
    "C3A DELORA FOURIERFT GRALORA LOHA LOKR MISS PSOFT RANDLORA TINYLORA UNILORA VBLORA VERA WAVEFT".split()
)
"""Types that PEFT's ``save_as_lora`` converts."""
REFUSED_FEATURES: dict[str, str] = {
    "use_dora": "DoRA; convert it first: peft.convert_to_lora / save_as_lora(path, model, rank) writes a plain LoRA",
    "modules_to_save": "fully trained modules (modules_to_save), which no LoRA update holds; train without them",
    "lora_bias": "biases on LoRA factors (lora_bias); train without them",
    "trainable_token_indices": "trainable token embeddings; train without trainable_token_indices",
    "target_parameters": "LoRA on bare parameters (target_parameters); train on target_modules",
    "layer_replication": "replicated layers (layer_replication); train without it",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens), which acts on some tokens only",
    "use_qalora": "QALoRA, which pools its inputs; train without use_qalora",
    "use_bdlora": "block-diagonal LoRA (use_bdlora); train without it",
    "arrow_config": "Arrow routing over several adapters; give one plain LoRA adapter",
    "kasa_config": "KaSA, which changes the base weights; train without it",
    "velora_config": "VeLoRA; train without it",
    "monteclora_config": "MonteCLoRA; train without it",
    "megatron_config": "Megatron parallel layers; train without it",
}
"""Fields of LoraConfig that, when set, make the update something else than s·B·A, and what to do."""
READ_FIELDS = frozenset(
    "alpha_pattern base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights layers_pattern "
    "layers_to_transform lora_alpha lora_dropout r rank_pattern revision target_modules task_type use_rslora".split()
)
"""Fields of adapter_config.json that are read; no other value reaches PEFT."""
CHANGED_BASE_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Prefixes of init_lora_weights that rewrite the base weights, so that B·A alone is not the update."""


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
        """The adapter's layout: one token per layer; one per layer and kind if embeddings are adapted."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        has_embedding = any("lora_embedding" in name for name in shapes)
        return BlockLayout.from_shapes(shapes, token_kinds=TOKEN_KINDS if has_embedding else None)

    @cached_property
    def scales(self) -> dict[str, float]:
        """Module path to the factor s of s·B·A: alpha / R, or alpha / √R with rsLoRA."""
        return {module: _scale(module, self.config) for module in sorted(_modules_of(self.tensors))}

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
    values = _read_config(folder, label)
    config = _checked_config(values, label)
    tensors = _parse_keys(_read_tensors(folder, label), label)
    if values["peft_type"] == "ADALORA":
        tensors, config = _fold_adalora(tensors, values, config, label)
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
    temporary = folder / f".{WEIGHTS_FILE}.tmp"
    save_file(keyed, temporary, metadata={"format": "pt"})
    temporary.replace(folder / WEIGHTS_FILE)
    was_inference, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = was_inference


def peft_key(name: str) -> str:
    """Return PEFT's file key of a tensor named ``<module path>.<factor>``."""
    return f"{KEY_PREFIX}{name}{FACTOR_SUFFIXES[name.rpartition('.')[2]]}"


def is_adapter_folder(folder: str | Path) -> bool:
    """Return whether the folder holds an adapter configuration."""
    return (Path(folder) / CONFIG_FILE).is_file()


def _read_config(folder: Path, label: str) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise AdapterError(f"'{label}' is not an adapter: it holds no {CONFIG_FILE}. Give a folder that PEFT saved.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{CONFIG_FILE} of '{label}' is not JSON ({error}). Save the adapter again.") from error
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise AdapterError(f"{CONFIG_FILE} of '{label}' names no peft_type. Give a folder that PEFT saved.")
    return values


def _checked_config(values: dict[str, Any], label: str) -> LoraConfig:
    peft_type = values["peft_type"]
    if peft_type not in ("LORA", "ADALORA"):
        way = (
            "Convert it first: load it with PEFT, then peft.save_as_lora(path, model, rank)"
            if peft_type in CONVERTIBLE_TYPES
            else "PEFT has no conversion to LoRA for it: train a LoRA adapter"
        )
        raise AdapterError(f"adapter '{label}' is of type {peft_type}, expected LORA. {way}.")
    for field, reason in REFUSED_FEATURES.items():
        if values.get(field):
            raise AdapterError(f"adapter '{label}' uses {reason}.")
    if values.get("bias", "none") != "none":
        raise AdapterError(f"adapter '{label}' trains biases (bias={values['bias']!r}), expected bias='none'.")
    init = str(values.get("init_lora_weights", True)).lower()
    if init.startswith(CHANGED_BASE_INITS):
        raise AdapterError(
            f"adapter '{label}' was started with init_lora_weights={init!r}, which changes the base weights. Convert "
            "it: save_pretrained(path, path_initial_model_for_weight_conversion=...) writes a plain LoRA."
        )
    known = {k: v for k, v in values.items() if k in READ_FIELDS and v is not None}
    if values["peft_type"] == "ADALORA":
        known.pop("rank_pattern", None)
    try:
        return LoraConfig(**known)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{CONFIG_FILE} of '{label}' is refused by PEFT: {error}") from error


def _read_tensors(folder: Path, label: str) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = [name for name in PICKLED_FILES if (folder / name).exists()]
        if pickled:
            raise AdapterError(
                f"adapter '{label}' holds pickled weights ({pickled[0]}), which are not opened here. Convert them on a "
                "machine where you trust them: load with PEFT, then save_pretrained(path), which writes safetensors."
            )
        raise MissingFileError(f"adapter '{label}' has no {WEIGHTS_FILE}. Save it with PEFT's save_pretrained.")
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise AdapterError(f"{WEIGHTS_FILE} of '{label}' is a Git-LFS pointer, not the weights. Run 'git lfs pull'.")
    try:
        with safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{WEIGHTS_FILE} of '{label}' is truncated or damaged ({error}). Copy or download it again."
        ) from error


def _parse_keys(keyed: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    parsed = {}
    for key, tensor in keyed.items():
        match = re.fullmatch(
            r"(?:base_model\.model\.)(?P<module>.+)\.(?P<factor>lora_(?:embedding_)?[A-Z]|ranknum)(?P<rest>\.weight)?",
            key,
        )
        if match is None:
            raise AdapterError(f"adapter '{label}' holds '{key}', which is no factor of a plain LoRA.")
        parsed[f"{match['module']}.{match['factor']}"] = tensor
    return dict(sorted(parsed.items()))


def _fold_adalora(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], config: LoraConfig, label: str
) -> tuple[dict[str, Tensor], LoraConfig]:
    """Fold AdaLoRA's singular values and its scale alpha / R into A; R is what budget allocation left."""
    folded = {}
    ranks = {}
    for name, tensor in tensors.items():
        module, _, factor = name.rpartition(".")
        if factor == "lora_A":
            singular = tensors.get(f"{module}.lora_E")
            if singular is None or tuple(singular.shape) != (tensor.shape[0], 1):
                raise AdapterError(f"adapter '{label}' lacks the singular values '{module}.lora_E'.")
            rank = tensor.shape[0]
            scale = (config.lora_alpha if config.lora_alpha > 0 else float(rank)) / (rank + 1e-5)
            folded[name] = tensor * singular * scale
            ranks[module] = rank
        elif factor == "lora_B":
            folded[name] = tensor
    rank = max(ranks.values(), default=int(values.get("target_r", 8)))
    plain = LoraConfig(
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        task_type=config.task_type,
        target_modules=config.target_modules,
        fan_in_fan_out=config.fan_in_fan_out,
        r=rank,
        lora_alpha=rank,
        rank_pattern={module: r for module, r in ranks.items() if r != rank},
        alpha_pattern={module: r for module, r in ranks.items() if r != rank},
    )
    return folded, plain


def _check_tensors(tensors: Mapping[str, Tensor], config: LoraConfig, label: str) -> None:
    if not tensors:
        raise AdapterError(f"adapter '{label}' holds no LoRA tensor.")
    for name, tensor in tensors.items():
        module, _, factor = name.rpartition(".")
        if factor not in FACTOR_SUFFIXES:
            raise AdapterError(f"adapter '{label}' holds '{name}', which is no factor of a plain LoRA.")
        if not tensor.dtype.is_floating_point:
            raise AdapterError(f"tensor '{name}' of adapter '{label}' is {tensor.dtype}, expected floating point.")
        if tensor.ndim != 2:
            raise AdapterError(
                f"tensor '{name}' of adapter '{label}' has {tensor.ndim} axes, expected 2: convolution LoRA has no "
                "place in a language model's update. Train on linear layers."
            )
        partner = f"{module}.{factor[:-1]}{'B' if factor.endswith('A') else 'A'}"
        if partner not in tensors:
            raise AdapterError(f"adapter '{label}' holds '{name}' but not '{partner}'. Save the adapter again.")
        rank, expected = tensor.shape[0 if factor.endswith("A") else 1], _rank(module, config)
        if rank != expected:
            raise AdapterError(
                f"tensor '{name}' of adapter '{label}' has rank {rank}, but {CONFIG_FILE} says {expected}. "
                "Weights and configuration belong to different adapters."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"tensor '{name}' of adapter '{label}' holds NaN or infinite values. Train it again.")
    _check_target_modules(_modules_of(tensors), config, label)


def _check_target_modules(modules: set[str], config: LoraConfig, label: str) -> None:
    targets = config.target_modules
    if targets is None or isinstance(targets, str):
        return
    for target in targets:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            raise AdapterError(
                f"adapter '{label}' has no tensor for '{target}', which {CONFIG_FILE} names in target_modules. "
                "Tensors are missing: save the adapter again."
            )
    for module in sorted(modules):
        if not any(module == target or module.endswith(f".{target}") for target in targets):
            raise AdapterError(
                f"adapter '{label}' holds '{module}', which {CONFIG_FILE} does not name in target_modules "
                f"({', '.join(sorted(targets))}). Weights and configuration belong to different adapters."
            )


def _modules_of(tensors: Mapping[str, Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in tensors}


def _rank(module: str, config: LoraConfig) -> int:
    return int(config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), module), config.r))


def _scale(module: str, config: LoraConfig) -> float:
    alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), module), config.lora_alpha)
    rank = _rank(module, config)
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)
