"""The shared GPU of a Space that has one (ZeroGPU); nothing anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar


Function = TypeVar("Function", bound=Callable[..., object])
GPU_SECONDS = 60
"""What one piece of work may take."""


def on_gpu(function: Function) -> Function:
    """Let a function run on the shared GPU; return it as it is where there is none."""
    try:
        from spaces import GPU  # type: ignore[attr-defined, import-not-found, unused-ignore]  # on ZeroGPU only
    except ImportError:
        return function
    decorated: Function = GPU(duration=GPU_SECONDS)(function)
    return decorated
