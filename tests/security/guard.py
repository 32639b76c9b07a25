"""See what the process does while it reads a stranger's folder: nothing but read there, quietly."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradtx_hf


# fmt: off
FORBIDDEN = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec",
    "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pickle.find_class", "ctypes.dlopen",
)
# fmt: on
"""Python's audit events that reading must not cause."""
INSTALLED = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, Path(gradtx_hf.__file__).parent)})
MACHINE = ("/proc/", "/sys/", "/dev/null")


@dataclass
class Seen:
    """What was seen.

    Attributes:
        folder: Where files may be opened.
        misdeeds: Everything else that happened.
    """

    folder: Path
    misdeeds: list[str] = field(default_factory=list)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an audit event that is not allowed."""
        if event in FORBIDDEN:
            self.misdeeds.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            allowed = (str(self.folder), *INSTALLED)
            if not any(path == place or path.startswith(f"{place}/") for place in allowed) and not path.startswith(
                MACHINE
            ):
                self.misdeeds.append(f"open {path}")


_watching: list[Seen] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching:
        _watching[-1].note(event, arguments)


sys.addaudithook(_hook)


class _Lines(logging.Handler):
    def __init__(self, seen: Seen) -> None:
        super().__init__(logging.WARNING)
        self.seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.misdeeds.append(f"log {record.name}: {record.getMessage()[:300]}")


@contextmanager
def watched(folder: Path) -> Iterator[Seen]:
    """Collect what happens in the body beside reading the folder: files, network, processes, pickles, warnings."""
    seen = Seen(folder.resolve())
    handler = _Lines(seen)
    loggers = [
        logging.getLogger(name) for name in ("", "transformers", "peft", "huggingface_hub", "torch", "gradtx_hf")
    ]
    for logger in loggers:
        logger.addHandler(handler)
    _watching.append(seen)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield seen
    finally:
        _watching.pop()
        for logger in loggers:
            logger.removeHandler(handler)
    # transformers warns itself of its own method, once for every model that is made
    seen.misdeeds += [
        f"warning {w.message}" for w in caught if "gradient_checkpointing` is deprecated" not in str(w.message)
    ]
