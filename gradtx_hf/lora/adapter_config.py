"""Read ``adapter_config.json``: what is a plain LoRA becomes a ``LoraConfig``, everything else is refused.

Only fields that are understood reach PEFT. A field that is neither understood nor known to be harmless, and that is
set to something else than PEFT's default, is refused: it may change what the factors mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from peft import LoraConfig

from gradtx_hf.errors import AdapterError, holds_secret
from gradtx_hf.lora.patterns import first_fitting, is_pattern
from gradtx_hf.updates.reading import ForeignFolder


CONFIG_FILE = "adapter_config.json"
CONVERTIBLE_TYPES = frozenset(
    [
        "C3A",
        "DELORA",
        "FOURIERFT",
        "GRALORA",
        "LOHA",
        "LOKR",
        "MISS",
        "PSOFT",
        "RANDLORA",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    ]
)
"""Types that PEFT's ``save_as_lora`` converts."""
REFUSED_FEATURES: dict[str, str] = {
    "use_dora": "DoRA. Convert it first: load it with PEFT, then peft.save_as_lora(path, model, rank)",
    "modules_to_save": "fully trained modules (modules_to_save), which no LoRA update holds. Train without them",
    "lora_bias": "biases on LoRA factors (lora_bias). Train without them",
    "trainable_token_indices": "trainable token embeddings (trainable_token_indices). Train without them",
    "target_parameters": "LoRA on bare parameters (target_parameters). Train on target_modules",
    "layer_replication": "replicated layers (layer_replication). Train without it",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens), which acts on some tokens only. Train "
    "without it",
    "use_qalora": "QALoRA, which pools its inputs. Train without use_qalora",
    "use_bdlora": "block-diagonal LoRA (use_bdlora). Train without it",
    "arrow_config": "Arrow routing over several adapters. Give one plain LoRA adapter",
    "kasa_config": "KaSA, which changes the base weights. Train without it",
    "velora_config": "VeLoRA. Train without it",
    "monteclora_config": "MonteCLoRA. Train without it",
    "megatron_config": "Megatron parallel layers. Train without it",
}
"""Fields of LoraConfig that, when set, make the update something else than s·B·A, and what to do."""
HARMLESS_FIELDS = frozenset(
    [
        "auto_mapping",
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "runtime_config",
        "init_r",
        "target_r",
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "total_step",
    ]
)
"""Fields that say how the factors were started or trained, or who wrote them, not what they mean."""
PLAIN_INITS = (True, False, "eva", "gaussian", "mica", "orthogonal")
"""Values of init_lora_weights that leave the base weights alone, so that s·B·A is the whole update."""
MAX_PATTERNS = 1000
MAX_NAMES = 50_000
MAX_NAME_CHARACTERS = 1000


def read_config(files: ForeignFolder, label: str) -> dict[str, Any]:
    """Read ``adapter_config.json`` as JSON values.

    Args:
        files: The adapter's folder.
        label: What messages call the adapter.

    Raises:
        AdapterError: If the file is not there, is not JSON, or names no PEFT type.
    """
    if not files.has(CONFIG_FILE):
        raise AdapterError(f"'{label}' is not an adapter: it holds no {CONFIG_FILE}. Give a folder that PEFT saved.")
    values = files.read_json(CONFIG_FILE)
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise AdapterError(f"{CONFIG_FILE} of '{label}' names no peft_type. Give a folder that PEFT saved.")
    return values


def check_config(values: dict[str, Any], label: str) -> LoraConfig:
    """Turn the values of ``adapter_config.json`` into PEFT's configuration of a plain LoRA (or AdaLoRA) adapter.

    Args:
        values: What ``read_config`` returned.
        label: What messages call the adapter.

    Raises:
        AdapterError: If it is another type of adapter, uses what a plain LoRA has not, or a value makes no sense.
    """
    peft_type = values["peft_type"]
    if peft_type not in ("LORA", "ADALORA"):
        way = (
            "Convert it first: load it with PEFT, then peft.save_as_lora(path, model, rank)"
            if peft_type in CONVERTIBLE_TYPES
            else "PEFT has no conversion to LoRA for it: train a LoRA adapter"
        )
        raise AdapterError(f"adapter '{label}' is of type {peft_type!r}, expected 'LORA'. {way}.")
    _refuse_features(values, label)
    known = {field: value for field, value in values.items() if field in FIELD_CHECKS and value is not None}
    if peft_type == "ADALORA":
        known.pop("rank_pattern", None)  # a mask per singular value, read where the tensors are folded
    for field, value in known.items():
        is_valid, expected = FIELD_CHECKS[field]
        if not is_valid(value):
            raise AdapterError(
                f"{CONFIG_FILE} of '{label}' has {field}={_shortened(value)}, expected {expected}. "
                "Save the adapter again."
            )
    known.pop("init_lora_weights", None)  # says how the factors began; PEFT would ask for the data it was made from
    try:
        return LoraConfig(**known)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{CONFIG_FILE} of '{label}' is refused by PEFT: {_shortened(str(error))}.") from error


def rank_of(module: str, config: LoraConfig) -> int:
    """Return the rank that the configuration gives to a module."""
    return int(_value_for(module, config.rank_pattern or {}, config.r))


def scale_of(module: str, config: LoraConfig) -> float:
    """Return a module's factor s of s·B·A: alpha / R, or alpha / √R with rsLoRA."""
    alpha = _value_for(module, config.alpha_pattern or {}, config.lora_alpha)
    rank = rank_of(module, config)
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _value_for(module: str, patterns: Mapping[str, float], default: float) -> float:
    fitting = first_fitting(patterns, module)
    return default if fitting is None else patterns[fitting]


def _refuse_features(values: dict[str, Any], label: str) -> None:
    for field, reason in REFUSED_FEATURES.items():
        if values.get(field):
            raise AdapterError(f"adapter '{label}' uses {reason}.")
    if values.get("bias", "none") != "none":
        raise AdapterError(
            f"adapter '{label}' trains biases (bias={_shortened(values['bias'])}), expected bias='none'. "
            "Train without them."
        )
    init = values.get("init_lora_weights")
    if init is not None and (init.lower() if isinstance(init, str) else init) not in PLAIN_INITS:
        raise AdapterError(
            f"adapter '{label}' was started with init_lora_weights={_shortened(init)}, which changes the base weights. "
            "Convert it: save_pretrained(path, path_initial_model_for_weight_conversion=...) writes a plain LoRA."
        )
    defaults = {field.name: field for field in dataclasses.fields(LoraConfig)}
    for field, value in values.items():
        if field in FIELD_CHECKS or field in HARMLESS_FIELDS or not value:
            continue
        if field not in defaults or value != defaults[field].default:
            raise AdapterError(
                f"adapter '{label}' sets {field!r} to {_shortened(value)}, which may change what its factors mean and "
                "is not understood here. Save it as a plain LoRA, with PEFT's defaults for this field."
            )


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME_CHARACTERS


def _is_place(value: object) -> bool:
    return _is_text(value) and not holds_secret(str(value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _is_alpha(value: object) -> bool:
    return _is_number(value) and 1e-9 <= abs(value) <= 1e9  # type: ignore[arg-type]


def _is_names(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_NAMES and all(map(_is_text, value))
    return is_pattern(value)


def _is_layers(value: object) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) for n in (value if isinstance(value, list) else [value]))


def _is_map_to(is_valid: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= MAX_PATTERNS
        and all(is_pattern(key) and is_valid(entry) for key, entry in value.items())
    )


FIELD_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "alpha_pattern": (
        _is_map_to(_is_alpha),
        f"a map from {MAX_PATTERNS} patterns at most to numbers of size 1e-9 to 1e9",
    ),
    "base_model_name_or_path": (_is_place, "a text without a password or token"),
    "bias": (_is_text, "'none'"),
    "ensure_weight_tying": (_is_flag, "true or false"),
    "exclude_modules": (_is_names, "a list of module names, or a pattern"),
    "fan_in_fan_out": (_is_flag, "true or false"),
    "inference_mode": (_is_flag, "true or false"),
    "init_lora_weights": (lambda value: isinstance(value, bool | str), "true, false or a name"),
    "layers_pattern": (_is_names, "a list of names, or a name"),
    "layers_to_transform": (_is_layers, "layer numbers"),
    "lora_alpha": (_is_alpha, "a number of size 1e-9 to 1e9"),
    "lora_dropout": (_is_number, "a number"),
    "r": (_is_rank, "a positive whole number"),
    "rank_pattern": (_is_map_to(_is_rank), f"a map from {MAX_PATTERNS} patterns at most to positive whole numbers"),
    "revision": (_is_place, "a text without a password or token"),
    "target_modules": (_is_names, "a list of module names, or a pattern"),
    "task_type": (_is_text, "a text"),
    "use_rslora": (_is_flag, "true or false"),
}
"""Fields that are read, whether a value makes sense, and what messages say is expected."""
