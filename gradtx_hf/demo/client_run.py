"""What fine-tuning the small model came to, and how it is kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.output import write_json
from gradtx_hf.playground import Rule


KEPT = Path(__file__).with_name("clients")
"""Runs that are kept with the package; ``examples`` makes them."""
RUN_FILE = "run.json"


@dataclass(frozen=True, eq=False)
class ClientRun:
    """What fine-tuning the small model came to.

    Attributes:
        adapter: What leaves the client.
        num_steps: Optimizer steps.
        final_loss: Nats per completion token, on the last steps; None if none of them drew a line.
        privacy: What was spent; None for a run that is not private.
        seconds: Wall-clock time.
    """

    adapter: Adapter
    num_steps: int
    final_loss: float | None
    privacy: Mapping[str, Any] | None
    seconds: float


def save_run(folder: Path, run: ClientRun, **notes: object) -> None:
    """Write a run as its adapter's folder, with the rest in ``RUN_FILE``, beside notes of the caller's."""
    save_adapter(folder, config=run.adapter.config, tensors=run.adapter.tensors)
    values = {"num_steps": run.num_steps, "final_loss": run.final_loss, "privacy": run.privacy}
    write_json(folder / RUN_FILE, {**notes, **values, "seconds": round(run.seconds, 1)})


def load_run(folder: Path) -> tuple[ClientRun, dict[str, Any]]:
    """Read a run that ``save_run`` wrote, and the notes beside it."""
    notes = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    kept = {name: notes.pop(name) for name in ("num_steps", "final_loss", "privacy", "seconds")}
    return ClientRun(load_adapter(folder, name=folder.name), **kept), notes


def kept_name(rule: Rule, epsilon: float | None) -> str:
    """Return the folder's name, in ``KEPT``, of a client with lines of a rule."""
    name = f"{rule.rearrangement}_{rule.shift}"
    return name if epsilon is None else f"{name}_epsilon_{epsilon:g}"
