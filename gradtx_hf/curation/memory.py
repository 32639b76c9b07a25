"""How much memory is free, and how much a piece of work takes at its peak: of the GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psutil  # type: ignore[import-untyped]  # no stubs are installed
import torch


CGROUP = Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.005


@dataclass
class Peak:
    """Most memory that was in use.

    Attributes:
        num_bytes: Bytes of this process, on its GPU where there is one.
    """

    num_bytes: int


def used_bytes() -> int:
    """Return the bytes that this process has in use."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss


def free_bytes(cgroup: Path = CGROUP) -> int:
    """Return the bytes that are free for this machine's processes, within the limit of a container.

    Args:
        cgroup: Where a container's limit stands (version 2 of Linux's control groups), if anywhere.
    """
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    available = int(psutil.virtual_memory().available)
    limit = _read(cgroup / "memory.max")
    if not limit.isdigit():
        return available
    statistics = dict(line.split() for line in _read(cgroup / "memory.stat").splitlines())
    in_use = int(_read(cgroup / "memory.current") or 0) - int(statistics.get("inactive_file", 0))
    return min(available, int(limit) - in_use)


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the most memory in use while a block runs; on a CPU by looking every few milliseconds."""
    peak = Peak(used_bytes())
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.num_bytes = torch.cuda.max_memory_allocated()
        return
    ended = Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak.num_bytes = max(peak.num_bytes, used_bytes())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
