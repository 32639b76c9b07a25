"""How much a visitor may ask for, and how a refusal reaches him: one line, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import gradio as gr

from gradtx_hf.errors import ConfigurationError, GradTxError, safe_text


Made = TypeVar("Made")
logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 64 << 20
"""Of one uploaded file."""
MAX_ADAPTERS = 16
"""Adapters in one translation."""
MAX_ADAPTER_BYTES = 256 << 20
"""Of an adapter, unpacked or fetched."""
MAX_TRANSLATOR_BYTES = 4 << 30
"""Of a translator, fetched; the paper's, a Flan-T5-Large with its maps, has 3.4 GB."""
MAX_QUEUE = 32
"""Visitors who wait for one kind of work; the next is asked to come back."""
MAX_SESSIONS = 256
"""Visitors whose last results are kept in memory."""
KEPT_SECONDS = 1800
"""How long a visitor's files and results are kept."""
SWEEP_SECONDS = 300
"""How often what is older is looked for."""
MAX_OWN_CHARACTERS = 40_000
"""Of the lines that a visitor types."""
MAX_SECONDS = 180
"""That fetching, reading and translating visitors' own adapters may take."""
STORY: dict[str, Any] = {"concurrency_id": "story", "concurrency_limit": 1}
"""Of the story's events: one at a time, as a run on the CPU depends on its process's random state."""
EXAMPLE: dict[str, Any] = {"concurrency_id": "example", "concurrency_limit": 4}
"""Of the events that only show what is kept: nobody waits for another's story."""
OWN: dict[str, Any] = {"concurrency_id": "own", "concurrency_limit": 2}
"""Of the events on visitors' own adapters, which may have to wait for the Hub: they do not hold up the story."""


def within_time(work: Callable[[], Made]) -> Made:
    """Return what work comes to, if it takes no longer than ``MAX_SECONDS``.

    Work that takes longer goes on unheard until it ends; what it may fetch is bounded, so that it does end.

    Raises:
        ConfigurationError: If it takes longer.
    """
    worker = ThreadPoolExecutor(max_workers=1)
    try:
        # in the visitor's context: a shared GPU is lent to a request
        return worker.submit(copy_context().run, work).result(timeout=MAX_SECONDS)
    except FutureTimeoutError as error:
        raise ConfigurationError(
            f"this takes more than {MAX_SECONDS} s, which is more than is given here. Translate on a machine of your "
            "own: pip install gradtx-hf."
        ) from error
    finally:
        worker.shutdown(wait=False)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show what goes wrong as one line: our own refusals as they are, all else without its inside.

    Raises:
        gradio.Error: In place of any exception but Gradio's own.
    """
    try:
        yield
    except GradTxError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error
    except gr.Error:
        raise
    except Exception as error:
        logger.exception("the demo failed: %s", safe_text(str(error)))
        raise gr.Error(
            f"this failed on the server's side ({type(error).__name__}). Try again; if it stays so, tell the owner.",
            print_exception=False,
        ) from error
