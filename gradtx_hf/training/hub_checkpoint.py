"""Checkpoints on the Hub: another machine goes on where this one was lost.

The state of a training lies in its portable form (see ``checkpoint``) on the branch ``checkpoint`` of the translator's
repository, one commit for each save; when the training has ended the branch is removed. A push that fails is told, and
training goes on: the next save is pushed again.

Source: ours; after Trainer's ``hub_strategy="checkpoint"``, which pushes pickles.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import RevisionNotFoundError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from gradtx_hf.errors import ConfigurationError, HubError, OutputExistsError
from gradtx_hf.hub import Card, Destination, RepoKind, fetch_repository, publish
from gradtx_hf.hub.branch import open_api, read_head
from gradtx_hf.hub.retry import with_retries
from gradtx_hf.training.checkpoint import WORK_FILE, pack_checkpoints, unpack_checkpoints
from gradtx_hf.training.identity import identity_difference
from gradtx_hf.updates.reading import parse_json


logger = logging.getLogger(__name__)

BRANCH = "checkpoint"
KIND = RepoKind("translator", owned=("*.json", "*.safetensors"))
"""On its branch a training's state stands in the place of the translator's files."""


@dataclass(frozen=True)
class HubCheckpoints:
    """Where a training's state is kept on the Hub.

    Attributes:
        destination: The translator's repository, and the branch.
        work_dir: Where Trainer keeps its checkpoints.
        parts: The translator's parts, as ``partition_store`` names them.
    """

    destination: Destination
    work_dir: Path
    parts: tuple[str, ...]

    @classmethod
    def of(cls, arguments: TrainingArguments, work_dir: Path, parts: Iterable[str]) -> HubCheckpoints | None:
        """Return where the arguments ask for the state to be kept; None if they do not.

        Raises:
            ConfigurationError: If they name no repository, or the state's own branch for the translator.
        """
        if not arguments.push_to_hub or arguments.hub_strategy != HubStrategy.CHECKPOINT:
            return None
        if arguments.hub_revision == BRANCH:
            raise ConfigurationError(
                f"got hub_revision '{BRANCH}', the branch that keeps the training's state until its end. Name another."
            )
        destination = Destination(
            str(arguments.hub_model_id or ""),
            private=arguments.hub_private_repo is not False,
            revision=BRANCH,
            token=arguments.hub_token,
        )
        return cls(destination, work_dir, tuple(parts))

    def push(self, num_steps: int) -> None:
        """Push the newest state as one commit.

        Args:
            num_steps: Steps of the part in training, for the commit's message.

        Raises:
            HubError: If it cannot be written; the branch is then as it was.
        """
        with tempfile.TemporaryDirectory(prefix="gradtx-checkpoint-") as temporary:
            folder = Path(temporary)
            pack_checkpoints(self.work_dir, folder, parts=self.parts)
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            publish(files, self.destination, kind=KIND, card=self._card(), commit_message=f"Step {num_steps}")

    def newest(self) -> str | None:
        """Return the commit of the state that the branch holds, None if it holds none.

        Raises:
            HubError: If that cannot be told.
        """
        head = read_head(open_api(self.destination), self.destination, KIND)
        return head.commit if head is not None and WORK_FILE in head.files else None

    def remove(self) -> None:
        """Remove the branch, if there is one: the training has ended. A note is left where that fails."""
        repo_id = self.destination.repo_id

        def request() -> None:
            with suppress(RevisionNotFoundError):  # never made, or removed by a request whose answer was lost
                api.delete_branch(repo_id, branch=BRANCH)

        try:
            api = open_api(self.destination)
            with_retries(request, what=str(self.destination))
        except (HubError, OSError) as error:
            logger.warning("branch '%s' of '%s' is left behind: %s", BRANCH, repo_id, error)

    def _card(self) -> Card:
        place = f"{self.destination.repo_id}@{BRANCH}"
        return Card(
            {"tags": ["gradtx_hf"], "library_name": "gradtx_hf"},
            f"# Training state\n\nThis branch holds no translator, but the state of the training of one. It goes on "
            f"with the same arguments and `gradtx train --resume-from-checkpoint {place}`, on any machine, and the "
            "branch is removed when it has ended.",
        )


class PushCheckpoints(TrainerCallback):
    """Pushes the state after every save, from the main process."""

    def __init__(self, checkpoints: HubCheckpoints) -> None:
        self._checkpoints = checkpoints

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Push; a failure is told and not raised, as the training itself is well."""
        args.distributed_state.wait_for_everyone()  # every process writes the state of its own generators
        if not state.is_world_process_zero:
            return
        try:
            self._checkpoints.push(state.global_step)
        except (HubError, OSError) as error:  # the Hub, or the disk that the state is packed on
            logger.warning("the state of step %d was not pushed, training goes on: %s", state.global_step, error)


def restore_checkpoints(
    name: str, work_dir: Path, *, parts: Iterable[str], identity: dict[str, Any], token: str | None = None
) -> None:
    """Bring a training's state from the Hub into its work folder, where Trainer goes on from it.

    Args:
        name: ``owner/name`` or ``owner/name@revision``; the branch ``checkpoint`` if no revision is given.
        work_dir: Where Trainer is to find its checkpoints.
        parts: The translator's parts.
        identity: What the training is of (see ``training_identity``).
        token: Access token; the one that ``hf auth login`` stored if None.

    Raises:
        MissingFileError: If there is no such repository or revision that can be read.
        ConfigurationError: If it holds no state, or a damaged one.
        OutputExistsError: If the state is of another training.
    """
    fetched = fetch_repository(name if "@" in name else f"{name}@{BRANCH}", token=token)
    logger.info("going on from '%s' at commit %s", fetched.name, fetched.commit)
    unpack_state(fetched.path, work_dir, name=name, parts=parts, identity=identity)


def unpack_state(folder: Path, work_dir: Path, *, name: str, parts: Iterable[str], identity: dict[str, Any]) -> None:
    """Bring a training's state from a fetched branch, which anybody may have written, into its work folder.

    Args:
        folder: What the branch holds.
        work_dir: Where Trainer is to find its checkpoints.
        name: What messages call the branch.
        parts: The translator's parts.
        identity: What the training is of.

    Raises:
        ConfigurationError: If it holds no state, or a damaged one.
        OutputExistsError: If the state is of another training.
    """
    try:
        found = parse_json((folder / WORK_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"'{name}' holds no state of a training. Give the branch that gradtx train pushed it to, such as "
            f"'{name.partition('@')[0]}@{BRANCH}'."
        ) from error
    difference = identity_difference(identity, found)
    if difference is not None:
        raise OutputExistsError(
            f"'{name}' holds the checkpoints of another training: {difference}. Give its arguments again to go on with "
            "it, or name another repository."
        )
    unpack_checkpoints(folder, work_dir, parts=parts)
