"""Several jobs on one plan: each does a share of the packs, and may know nothing of the others.

A folder of a store is held by one curation of all packs, or by jobs of different shares; the operating system lets go
of a lock when its process ends, however it ends. Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from gradtx_hf.errors import ConfigurationError, StoreError


LOCK_FILE = ".lock"
SHARE_LOCKS = ".lock-*"
PATIENCE_SECONDS = 10.0
"""How long a job waits while another one takes hold of its own share."""


@dataclass(frozen=True)
class Share:
    """Every so many packs of the plan, source before target, from one on.

    Attributes:
        index: Which share, in [0, count).
        count: How many shares there are.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Return the share that ``i/n`` names.

        Raises:
            ConfigurationError: If it names none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        share = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if share.index >= share.count:
            raise ConfigurationError(f"got share={text!r}, expected i/n with 0 ≤ i < n: 0/4 is the first of four.")
        return share

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def takes(self, place: int) -> bool:
        """Return whether the pack at a place of the plan is of this share."""
        return place % self.count == self.index


@contextmanager
def hold_store(folder: Path, share: Share | None) -> Iterator[None]:
    """Hold a store's folder, or a share of its packs.

    Args:
        folder: The folder.
        share: The share; None: all of it.

    Raises:
        StoreError: If another process holds it.
    """
    held = StoreError(f"another process is curating into '{folder}'. Wait for it, or name a new folder.")
    whole = FileLock(folder / LOCK_FILE, timeout=0 if share is None else PATIENCE_SECONDS)
    with ExitStack() as stack:
        try:
            whole.acquire()
        except Timeout as error:
            raise held from error
        stack.callback(whole.release)
        if share is None:
            _require_no_share_held(folder)
        else:
            own = FileLock(folder / f".lock-{share.index}-of-{share.count}", timeout=0)
            try:
                own.acquire()
            except Timeout as error:
                raise StoreError(f"another process is doing share {share} of '{folder}'. Wait for it.") from error
            stack.callback(own.release)
            whole.release()
        yield


def _require_no_share_held(folder: Path) -> None:
    for path in sorted(folder.glob(SHARE_LOCKS)):
        try:
            with FileLock(path, timeout=0):
                path.unlink()
        except Timeout as error:
            raise StoreError(
                f"another process is doing a share of '{folder}' ({path.name}). Wait for it, or name a new folder."
            ) from error
