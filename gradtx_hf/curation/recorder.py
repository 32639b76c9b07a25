"""Record adapters after each of the last optimizer steps of their runs, in memory and, beyond that, on the disk.

Axes: K runs, P elements of an adapter, W snapshots, N blocks, D the size of the largest block. Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from gradtx_hf.output import write_bytes
from gradtx_hf.updates import BlockLayout, encode_update


SPILL_BYTES = 1 << 28
"""Snapshots that are kept in memory before they go to the disk."""


class SnapshotRecorder:
    """Keeps the adapters' values of the last W optimizer steps of each run ("the last 200 steps", paper Sec. 4.1).

    Args:
        start: The values that all runs start from.
        layout: The layout of their updates.
        num_snapshots: Most snapshots of a run W.
        folder: Where snapshots go that a checkpoint needs or that take too much memory; made when there are some.
        spill_bytes: Most bytes of snapshots in memory.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        layout: BlockLayout,
        *,
        num_snapshots: int,
        folder: Path,
        spill_bytes: int = SPILL_BYTES,
    ) -> None:
        self._layout, self._num_snapshots = layout, num_snapshots
        self._folder, self._spill_bytes = folder, spill_bytes
        self._shapes = {name: tensor.shape for name, tensor in start.items()}
        self._start = encode_update(start, layout)
        self._last: dict[int, int] = {}  # by run: its last step
        self._recent: dict[int, tuple[list[int], Tensor]] = {}  # by step: the runs and their factors [K, P]
        self._num_bytes = 0  # of the recent ones
        self._files: dict[str, dict[int, list[int]]] = {}  # by name of a file and step: the runs
        self._checkpointed: set[str] = set()  # files that the newest checkpoint names

    def record(self, step: int, running: Sequence[int], factors: Mapping[str, Tensor]) -> None:
        """Copy the values that a step left.

        Args:
            step: Number of the step, from 1.
            running: Numbers of the runs that are running.
            factors: Their factors by name, ``[K, r, in]`` and ``[K, out, r]``.
        """
        rows = torch.cat([factors[name].detach().flatten(1) for name in self._shapes], dim=1).to("cpu")  # [K, P]
        self._recent[step] = (list(running), rows)
        self._num_bytes += rows.nbytes
        self._last |= dict.fromkeys(running, step)
        self._forget(step - self._num_snapshots, running)
        if self._num_bytes > self._spill_bytes:
            self._spill()

    def updates(self, run: int) -> Tensor:
        """Return a run's updates ``[W, N, D]`` float32 against the start, oldest first."""
        return torch.stack([encode_update(state, self._layout) for state in self._states(run)]) - self._start

    def state(self) -> dict[str, Any]:
        """Bring all snapshots to the disk; return what ``restore`` needs."""
        self._spill()
        self._checkpointed = {name for name in self._files if self._is_needed(name)}
        return {"last": self._last, "files": {name: self._files[name] for name in sorted(self._checkpointed)}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned; files of later steps are removed."""
        self._last, self._files = dict(state["last"]), dict(state["files"])
        self._checkpointed = set(self._files)
        self._recent, self._num_bytes = {}, 0
        for path in self._folder.glob("snapshots-*.safetensors"):
            if path.name not in self._files:
                path.unlink()

    def _forget(self, step: int, running: Sequence[int]) -> None:
        """Drop what a step left in memory, but for the runs that have ended since."""
        if step not in self._recent:
            return
        runs, rows = self._recent.pop(step)
        self._num_bytes -= rows.nbytes
        ended = [position for position, run in enumerate(runs) if run not in running]
        if ended:
            self._recent[step] = ([runs[position] for position in ended], rows[ended])
            self._num_bytes += self._recent[step][1].nbytes

    def _spill(self) -> None:
        """Move the snapshots in memory to a file, and remove files that neither a run nor a checkpoint needs."""
        if self._recent:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"snapshots-{max(self._recent):08d}.safetensors"
            write_bytes(self._folder / name, save({str(step): rows for step, (_, rows) in self._recent.items()}))
            self._files[name] = {step: runs for step, (runs, _) in self._recent.items()}
            self._recent, self._num_bytes = {}, 0
        for name in [name for name in self._files if name not in self._checkpointed and not self._is_needed(name)]:
            (self._folder / name).unlink()
            del self._files[name]

    def _is_needed(self, name: str) -> bool:
        """Return whether a file has one of the last W steps of a run."""
        return any(
            step > self._last[run] - self._num_snapshots for step, runs in self._files[name].items() for run in runs
        )

    def _states(self, run: int) -> Iterator[dict[str, Tensor]]:
        """Yield a run's adapter after each of its last W steps, oldest first."""
        place = {step: name for name, steps in self._files.items() for step, runs in steps.items() if run in runs}
        last = self._last[run]
        for step in range(max(1, last - self._num_snapshots + 1), last + 1):
            if step in place:
                position = self._files[place[step]][step].index(run)
                with safe_open(self._folder / place[step], framework="pt") as file:
                    row = file.get_slice(str(step))[position]
            else:
                runs, rows = self._recent[step]
                row = rows[runs.index(run)]
            parts = row.split([shape.numel() for shape in self._shapes.values()])
            yield {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
