"""Checkpoints that travel: Trainer's local folders as safetensors and JSON alone, and back.

Trainer pickles its optimizer, schedule and generators. Its folders stay as they are on the machine that trains; what
leaves it is the portable form, from which another machine goes on as if nothing had happened:

    arguments.json                     what the training is of (``run.train`` writes it)
    [part/]checkpoint-6/               the newest: model.safetensors, config.json, trainer_state.json, and of the
                                       optimizer, the schedule and the generators NAME.json and NAME.safetensors
    [part/]checkpoint-4/               the best, if it is another: model.safetensors, config.json
    [part/]block_errors.json           validations so far, for the objective ``parameter``

The place in the data's order is the number of steps in trainer_state.json, together with the generators.

Source: ours.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.state_tree import read_tree, write_tree
from gradtx_hf.output import write_text
from gradtx_hf.training.trainer import BLOCK_ERRORS_FILE


WORK_FILE = "arguments.json"
"""What the checkpoints beside it were made with."""
CHECKPOINT_PATTERN = re.compile(r"checkpoint-(\d+)")
PICKLE_PATTERN = re.compile(r"(optimizer|scheduler|scaler)\.pt|(rng_state(?:_\d+)?)\.pth")
"""Trainer's pickled files; one of the generators for each of several processes."""
STATE_PATTERN = re.compile(r"(optimizer|scheduler|scaler|rng_state(?:_\d+)?)\.json")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a training, None without any; Trainer writes its state last."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return max(whole, key=_num_steps) if whole else None


def pack_checkpoints(work_dir: Path, folder: Path, *, parts: Iterable[str]) -> None:
    """Write the portable form of a training's checkpoints.

    Args:
        work_dir: Where the training keeps them.
        folder: An empty folder.
        parts: The translator's parts, as ``partition_store`` names them; one without a checkpoint is left out.
    """
    shutil.copyfile(work_dir / WORK_FILE, folder / WORK_FILE)
    for part in parts:
        last = last_checkpoint(work_dir / part)
        if last is not None:
            (folder / part).mkdir(exist_ok=True)
            _pack_part(last, folder / part)


def unpack_checkpoints(folder: Path, work_dir: Path, *, parts: Iterable[str]) -> None:
    """Write the checkpoints that Trainer goes on from, out of their portable form; nothing else in it is read.

    Args:
        folder: What ``pack_checkpoints`` wrote.
        work_dir: Where the training is to keep them.
        parts: The translator's parts; one that had not begun is left out.

    Raises:
        ConfigurationError: If no part has a checkpoint, or one is damaged.
    """
    found = {part: last_checkpoint(folder / part) for part in parts}
    if not any(found.values()):
        raise ConfigurationError(f"'{folder.name}' holds no checkpoint of this training. Resume from another one.")
    for part, last in found.items():
        if last is not None:
            _unpack_part(last, work_dir / part)


def _pack_part(last: Path, folder: Path) -> None:
    packed = folder / last.name
    packed.mkdir()
    _copy_model(last, packed)
    for path in sorted(last.iterdir()):
        match = PICKLE_PATTERN.fullmatch(path.name)
        if match:
            with safe_globals():  # NumPy's arrays, and nothing else beside what weights_only admits
                state = torch.load(path, map_location="cpu", weights_only=True)
            write_tree(packed, match[1] or match[2], state)
    state = _read_trainer_state(last)
    best = _best_beside(last, Path(state.get("best_model_checkpoint") or "").name)
    if best is not None and best != last:
        (folder / best.name).mkdir()
        _copy_model(best, folder / best.name)
    _write_trainer_state(packed, state | {"best_model_checkpoint": None if best is None else best.name})
    if (last.parent / BLOCK_ERRORS_FILE).is_file():
        shutil.copyfile(last.parent / BLOCK_ERRORS_FILE, folder / BLOCK_ERRORS_FILE)


def _unpack_part(last: Path, work_dir: Path) -> None:
    state = _read_trainer_state(last)
    best = _best_beside(last, state.get("best_model_checkpoint"))
    state["best_model_checkpoint"] = None if best is None else str(work_dir / best.name)
    if best is not None and best != last:  # before the newest: Trainer counts their age by the time of writing
        (work_dir / best.name).mkdir(parents=True, exist_ok=True)
        _copy_model(best, work_dir / best.name)
    unpacked = work_dir / last.name
    unpacked.mkdir(parents=True, exist_ok=True)
    _copy_model(last, unpacked)
    for path in sorted(last.iterdir()):
        match = STATE_PATTERN.fullmatch(path.name)
        if match:
            suffix = ".pth" if match[1].startswith("rng_state") else ".pt"
            torch.save(read_tree(last, match[1]), unpacked / f"{match[1]}{suffix}")
    if (last.parent / BLOCK_ERRORS_FILE).is_file():
        shutil.copyfile(last.parent / BLOCK_ERRORS_FILE, work_dir / BLOCK_ERRORS_FILE)
    _write_trainer_state(unpacked, state)  # last: now the checkpoint counts as whole


def _best_beside(last: Path, name: object) -> Path | None:
    """Return the checkpoint that a state names as the best, if it is there; a path to elsewhere is not followed."""
    if not isinstance(name, str) or not CHECKPOINT_PATTERN.fullmatch(name):
        return None
    return last.with_name(name) if last.with_name(name).is_dir() else None


def _copy_model(checkpoint: Path, folder: Path) -> None:
    for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME):
        try:
            shutil.copyfile(checkpoint / name, folder / name)
        except OSError as error:
            raise ConfigurationError(
                f"checkpoint '{checkpoint.name}' lacks {name}. Resume from another one."
            ) from error


def _read_trainer_state(checkpoint: Path) -> dict[str, Any]:
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise ConfigurationError(
            f"{TRAINER_STATE_NAME} of checkpoint '{checkpoint.name}' is damaged. Resume from another one."
        )
    return state


def _write_trainer_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write the state as Trainer does, NaN and infinity in its log included."""
    write_text(checkpoint / TRAINER_STATE_NAME, json.dumps(state, indent=2, sort_keys=True) + "\n")


def _num_steps(checkpoint: Path) -> int:
    match = CHECKPOINT_PATTERN.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1
