"""Refuse a launch in which every process would train alone: what a launcher was asked for, and what came of it."""

from __future__ import annotations

import os

from gradtx_hf.errors import ConfigurationError


def require_all_processes(num_processes: int) -> None:
    """Check that as many processes train together as the launcher was asked for.

    Two launches go wrong without a word: ``accelerate launch --cpu --num_processes N`` (accelerate 1.15) starts one
    process and tells it an address only; and where no GPU is found, processes that were not told to use the CPU each
    take themselves for the only one.

    Args:
        num_processes: Processes that train together, by ``TrainingArguments.world_size``.

    Raises:
        ConfigurationError: If they are fewer.
    """
    if num_processes > 1:
        return
    num_launched = int(os.environ.get("WORLD_SIZE", "1"))
    if num_launched > 1:
        raise ConfigurationError(
            f"a launcher started {num_launched} processes, but each would train alone: no GPU was found. Set use_cpu: "
            "true to train on the CPU in all of them."
        )
    if "WORLD_SIZE" not in os.environ and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
        raise ConfigurationError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu. Launch with "
            "--multi_gpu in its place, and set use_cpu: true. (If one is what you want: unset MASTER_ADDR.)"
        )
