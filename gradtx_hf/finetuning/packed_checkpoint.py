"""PackCheckpoints: the newest state of a pack in training, in a folder that is removed when the pack is done.

    checkpoint-120/   pack.json and pack.safetensors: all that the pack's further steps depend on;
                      trainer_state.json: what Trainer itself resumes from

A checkpoint is written under another name, flushed and renamed: a process that is killed leaves a whole one or none.
Source: ours.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.state_tree import read_tree, write_tree
from gradtx_hf.output import new_folder


logger = logging.getLogger(__name__)

TREE_NAME = "pack"


class PackCheckpoints:
    """Writes and reads the checkpoints of one pack.

    Args:
        folder: Where; made with the first checkpoint.
        seconds: Time between two, and before the first; 0: after every step.
    """

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self.folder = folder
        self._seconds = seconds
        self._last = time.monotonic()

    def begin(self) -> None:
        """Count the time from now on."""
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._last >= self._seconds

    def write(self, tree: Mapping[str, Any], state: TrainerState) -> None:
        """Write a checkpoint, and then remove the one before.

        Args:
            tree: All that the pack's further steps depend on, as ``write_tree`` takes it.
            state: Trainer's own state.
        """
        newest = self.folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        with new_folder(newest) as folder:
            write_tree(folder, TREE_NAME, dict(tree))
            state.save_to_json(str(folder / TRAINER_STATE_NAME))
            for path in folder.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        for path in self._folders():
            if path != newest:
                shutil.rmtree(path)
        self._last = time.monotonic()

    def read(self, identity: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint and what it holds; None if there is none that can be gone on from.

        Args:
            identity: What the checkpoint must say of its pack under ``identity``.
        """
        found = self._folders()
        if not found:
            return None
        newest = max(found, key=lambda path: int(path.name.rpartition("-")[2]))
        try:
            TrainerState.load_from_json(str(newest / TRAINER_STATE_NAME))
            tree: dict[str, Any] = read_tree(newest, TREE_NAME)
        except (OSError, ValueError, TypeError, ConfigurationError) as error:
            logger.warning("checkpoint '%s' is damaged (%s): the pack begins anew", newest, error)
            return None
        if tree.get("identity") != identity:
            logger.warning("checkpoint '%s' is of another pack or version: the pack begins anew", newest)
            return None
        return newest, tree

    def _folders(self) -> list[Path]:
        return list(self.folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
