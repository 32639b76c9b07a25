"""Wall-clock seconds by phase, added up in a folder over all runs of the command that fills it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradtx_hf.output import write_json


SECONDS_FILE = "seconds.json"


@contextmanager
def timed(folder: Path, phase: str) -> Iterator[None]:
    """Add a phase's time to what earlier runs in this folder took for it, also when the phase is broken off."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds = read_seconds(folder)
        seconds[phase] = round(seconds.get(phase, 0.0) + time.perf_counter() - begin, 2)
        write_json(folder / SECONDS_FILE, seconds)


def read_seconds(folder: Path) -> dict[str, float]:
    """Return phase to seconds; empty where nothing was timed yet."""
    path = folder / SECONDS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
