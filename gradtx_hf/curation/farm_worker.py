"""One worker of a farm: does packs on a machine that need not see any of the provider's files.

It is sent the plan, a side's initial adapter and tokenized rows, and the base model's files where the machine does not
hold the same model under the same name; it gives back shards. A model of the Hub is loaded from there, at the plan's
commit. Source: ours.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from gradtx_hf.curation.initial import init_folder, model_files, sha256_of_model
from gradtx_hf.curation.worker import Pack, SideRuns, perform_pack
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub.cards import installed_versions
from gradtx_hf.playground import local_name
from gradtx_hf.updates.store import PLAN_FILE, SHARDS_FOLDER, Side, UpdateStore


FOLDER_PREFIX = "gradtx-farm-"
LOCK_FILE = ".lock"
YOUNG_SECONDS = 60.0
LIBRARIES = ("gradtx-hf", "torch", "transformers", "peft", "trl")
"""What two machines must have alike for their shards to be alike."""


@dataclass(frozen=True)
class Cargo:
    """What a machine needs of one side.

    Attributes:
        shared: What the side's packs share, with the paths of the machine that sends.
        store_files: The plan and the side's initial adapter: path in the store's folder to content.
        token_files: The tokenized rows: path in their folder to content.
        model_sha256: Of the base model's files; None for a model of the Hub.
        versions: Libraries of the machine that sends.
    """

    shared: SideRuns
    store_files: Mapping[str, bytes]
    token_files: Mapping[str, bytes]
    model_sha256: str | None
    versions: Mapping[str, str]


def load_cargo(shared: SideRuns) -> Cargo:
    """Read what the packs of a side need, but for the base model."""
    folder, tokens = Path(shared.folder), Path(shared.tokens_folder)
    side_plan = UpdateStore.resume(folder).plan[shared.side]
    store_files = [folder / PLAN_FILE, *init_folder(folder, shared.side).iterdir()]
    return Cargo(
        shared=shared,
        store_files={path.relative_to(folder).as_posix(): path.read_bytes() for path in store_files},
        token_files={path.relative_to(tokens).as_posix(): path.read_bytes() for path in _files_below(tokens)},
        model_sha256=side_plan["model_sha256"],
        versions=installed_versions(LIBRARIES),
    )


def load_model_files(shared: SideRuns) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and bytes ``[size]`` uint8 of every file of a side's base model, a local folder."""
    for path in model_files(Path(local_name(shared.settings.model))):
        yield path.name, np.fromfile(path, dtype=np.uint8)


class FarmWorker:
    """Does packs in a folder of its own, below the machine's folder for temporary files."""

    def __init__(self) -> None:
        _remove_abandoned_folders()
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._lock = FileLock(self._folder / LOCK_FILE)
        self._lock.acquire()
        self._shared: dict[Side, SideRuns] = {}

    def receive(self, *cargos: Cargo) -> list[Side]:
        """Take what the packs of some sides need.

        Returns:
            The sides whose base model is not here and is to be sent as well.

        Raises:
            ConfigurationError: If the libraries here are others.
        """
        lacking: list[Side] = []
        for cargo in cargos:
            _require_versions(cargo.versions)
            shared = cargo.shared
            store_folder, tokens_folder = (self._folder / shared.side / name for name in ("store", "tokens"))
            (store_folder / SHARDS_FOLDER).mkdir(parents=True)
            _write_files(store_folder, cargo.store_files)
            _write_files(tokens_folder, cargo.token_files)
            settings = shared.settings
            if cargo.model_sha256 is not None and sha256_of_model(settings.model) != cargo.model_sha256:
                lacking.append(shared.side)
                settings = replace(settings, model=str(self._model_folder(shared.side)))
            self._shared[shared.side] = replace(
                shared, folder=str(store_folder), tokens_folder=str(tokens_folder), settings=settings
            )
        return lacking

    def receive_model_file(self, side: Side, name: str, content: np.ndarray) -> None:
        """Take a file of a side's base model.

        Args:
            side: Which side.
            name: The file's name.
            content: Its bytes ``[size]``, uint8.
        """
        folder = self._model_folder(side)
        folder.mkdir(exist_ok=True)
        content.tofile(folder / name)

    def perform(self, pack: Pack) -> Iterator[bytes | float]:
        """Do a pack; yield the content of each run's shard, in order, and last how long the pack took, in seconds."""
        begin = time.perf_counter()
        shared = self._shared[pack.shared.side]
        perform_pack(replace(pack, shared=shared))
        seconds = time.perf_counter() - begin
        store = UpdateStore.resume(shared.folder)
        for run in pack.runs:
            path = store.shard_path(shared.side, run.shadow_set)
            content = path.read_bytes()
            path.unlink()
            yield content
        yield seconds

    def close(self) -> None:
        """Remove all that was written here."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()

    def _model_folder(self, side: Side) -> Path:
        return self._folder / side / "model"


def _require_versions(expected: Mapping[str, str]) -> None:
    got = installed_versions(LIBRARIES)
    for name in LIBRARIES:
        if got.get(name) != expected.get(name):
            raise ConfigurationError(
                f"a machine of the farm has {name} {got.get(name)}, expected {expected.get(name)} as where gradtx "
                "curate runs: runs would come out differently. Install the same versions."
            )


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove_abandoned_folders() -> None:
    """Remove the folders of workers that were killed here: their lock is free, and not because they just begin."""
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/{LOCK_FILE}"):
        try:
            if time.time() - path.stat().st_mtime > YOUNG_SECONDS:
                with FileLock(path, timeout=0):
                    shutil.rmtree(path.parent, ignore_errors=True)
        except (Timeout, OSError):  # a live worker's, or another user's
            continue
