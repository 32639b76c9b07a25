"""The shared GPU of a Space that has one (ZeroGPU); nothing anywhere else.

There a function runs in a process of its own: what it takes and returns is pickled, and of what it raises only
Gradio's own errors arrive whole. So refusals of ours are returned, and raised on this side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from gradtx_hf.errors import GradTxError


Given = ParamSpec("Given")
Made = TypeVar("Made")
GPU_SECONDS = 60
"""What one piece of work may take."""


def on_gpu(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Let a function run on the shared GPU; return it as it is where there is none."""
    try:
        from spaces import GPU  # type: ignore[attr-defined, import-not-found, unused-ignore]  # on ZeroGPU only
    except ImportError:
        return function

    def guarded(*args: Given.args, **kwargs: Given.kwargs) -> Made | GradTxError:
        try:
            return function(*args, **kwargs)
        except GradTxError as error:
            return error

    on_its_own = GPU(duration=GPU_SECONDS)(guarded)

    @wraps(function)
    def here(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        made: Made | GradTxError = on_its_own(*args, **kwargs)
        if isinstance(made, GradTxError):
            raise made
        return made

    return here
