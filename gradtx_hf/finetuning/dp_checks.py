"""What would break the guarantee of DP-SGD, each refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import EarlyStoppingCallback
from trl.trainer.sft_config import SFTConfig

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.privacy import ClippingMode
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.trainer import ConvergenceCallback


def require_private_recipe(recipe: FineTuningRecipe) -> None:
    """Check a recipe.

    Raises:
        ConfigurationError: If a run by it would not be private.
    """
    if recipe.until_converged:
        raise ConfigurationError(
            "a private run cannot stop until_converged: when it stops would tell the loss on private rows. Set "
            "num_steps alone."
        )
    if recipe.num_parts != 1:
        raise ConfigurationError(
            f"a private run cannot have num_parts={recipe.num_parts}: which part a row goes to depends on the rows "
            "before it. Set num_parts=1 and a larger batch_size."
        )
    if recipe.row_noise:
        raise ConfigurationError(
            "row_noise is for shadow runs: a private run's noise follows from privacy. Leave it out."
        )


def require_private_options(options: Mapping[str, Any]) -> None:
    """Check the options of a trainer.

    Raises:
        ConfigurationError: If a run with them would not be private.
    """
    args: SFTConfig = options["args"]
    broken = {
        "packing": (args.packing, "a row would share its sequence with others"),
        "padding_free": (args.padding_free, "a row would share its sequence with others"),
        "activation checkpointing": (args.gradient_checkpointing, "the gradients of single rows would be lost"),
        "bf16 or fp16 autocast": (args.bf16 or args.fp16, "rounding would let rows pass the clipping norm"),
        "gradient_accumulation_steps": (
            args.gradient_accumulation_steps != 1,
            "steps are drawn whole; per_device_train_batch_size says how many rows run at a time",
        ),
        "max_grad_norm": (
            args.max_grad_norm != 0,
            "rows are clipped each, and noise must not be. Set it to 0",
        ),
        "several devices": (args.n_gpu > 1 or args.world_size > 1, "rows would be drawn on each of them"),
        "max_steps": (args.max_steps < 1, "what is spent depends on it. Set it to the steps to take"),
        "eval_dataset": (options.get("eval_dataset") is not None, "scores on private rows are not accounted for"),
        "auto_find_batch_size": (
            args.auto_find_batch_size,
            "a run begun anew would spend again. Set a smaller per_device_train_batch_size",
        ),
        "report_to": (
            bool(args.report_to),
            "the losses of private rows would be sent on, which epsilon does not cover. Set it to none",
        ),
        "push_to_hub": (
            args.push_to_hub,
            "the state of training would be sent on, which epsilon does not cover. Push the finished adapter",
        ),
        "stopping early": (
            any(isinstance(c, EarlyStoppingCallback | ConvergenceCallback) for c in options.get("callbacks") or ()),
            "when a run stops would tell the loss on private rows",
        ),
    }
    for name, (is_broken, reason) in broken.items():
        if is_broken:
            raise ConfigurationError(f"{name} does not go with differential privacy: {reason}.")


def require_private_model(model: PeftModel, *, clipping: ClippingMode) -> None:
    """Check what of a model would be trained.

    Raises:
        ConfigurationError: If nothing is trainable, or the gradients of single rows could not be clipped.
    """
    modules = dict(model.named_modules())
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigurationError("the model has nothing to train. Load its adapter with is_trainable=True.")
    for config in model.peft_config.values():
        if getattr(config, "use_dora", False):
            raise ConfigurationError(
                "DoRA does not go with differential privacy: its magnitudes tie the gradients of rows together. Use "
                "LoRA."
            )
    for name in trainable:
        owner = modules[name.rpartition(".")[0]]
        if ".lora_" not in name or not isinstance(owner, torch.nn.Linear):
            raise ConfigurationError(
                f"parameter '{name}' does not go with differential privacy, which covers LoRA's linear factors alone. "
                "Leave out modules_to_save and other layers, or freeze it."
            )
    if any(isinstance(module, _BatchNorm) for module in modules.values()):
        raise ConfigurationError("a model with batch normalisation mixes rows, and cannot be trained privately.")
    halves = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype.itemsize < 4]
    if halves:
        raise ConfigurationError(
            f"parameter '{halves[0]}' is not in float32, and rounding would let rows pass the clipping norm. Load the "
            "adapter in float32, as PEFT does by itself."
        )
    narrow = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype.itemsize < 4}
    if clipping == "ghost" and narrow:
        raise ConfigurationError(
            f"ghost clipping needs a model in float32, got {', '.join(sorted(narrow))}: rounding between its two "
            "backward passes would let rows pass the clipping norm. Set clipping: per_sample."
        )
