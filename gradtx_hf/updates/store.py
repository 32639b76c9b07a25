"""UpdateStore: the updates of a curation in a folder, resumable, memory-mapped, without duplicates.

Every shadow set has a source run; the plan may say that only some have a target run beside it and so give pairs.

    plan.json        written first: all that determines the content, and both layouts
    shards/          one file per run: source-00000.safetensors, target-00000.safetensors, …
    manifest.json    written last: every shard's SHA-256, the hash of every snapshot, and what is known of the run

No file holds a time or a name of the machine, so an interrupted and continued curation ends with the same bytes.
Whoever fills the store may keep further files in the folder, such as the initial adapters.

Axes: W snapshots, N blocks, D the size of the largest block. Source: paper Sec. 3 (curation); the format is ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gradtx_hf.errors import LayoutError, MissingFileError, OutputExistsError, StoreError
from gradtx_hf.output import write_bytes
from gradtx_hf.updates.layout import BlockLayout
from gradtx_hf.updates.manifest import Manifest, describe_shard, distinct_snapshots
from gradtx_hf.updates.mapped import MappedSide
from gradtx_hf.updates.plan import FORMAT, planned_dtype, planned_target_sets, read_plan, require_same_plan
from gradtx_hf.updates.shard import find_damage, is_whole, sha256_of_file, write_shard


Side = Literal["source", "target"]

SIDES: tuple[Side, Side] = ("source", "target")
PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
SHARDS_FOLDER = "shards"


class UpdateStore:
    """A folder of update pairs; made by ``create`` or ``open``.

    Attributes:
        folder: The folder.
        plan: All that determines the content, as JSON values; ``num_shadow_sets`` among them, and where not every
            shadow set has a target run ``target_shadow_sets``, those that have one.
        dtype: What the numbers are stored as, float32 or bfloat16; they are read as float32.
        source_layout: Layout of the source updates.
        target_layout: Layout of the target updates.
    """

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = values["plan"]
        self.dtype = planned_dtype(self.plan)
        self.source_layout = BlockLayout.from_dict(values["source_layout"])
        self.target_layout = BlockLayout.from_dict(values["target_layout"])
        self._mapped = {
            side: MappedSide(self.layout(side), dtype=self.dtype, find_shard=partial(self.shard_path, side))
            for side in SIDES
        }

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        plan: Mapping[str, Any],
        source_layout: BlockLayout,
        target_layout: BlockLayout,
    ) -> UpdateStore:
        """Make a new store, or continue one of the same plan.

        Args:
            folder: The folder.
            plan: JSON values; ``num_shadow_sets`` says how many shadow sets the store is to hold,
                ``target_shadow_sets`` which of them have a target run (all where it is left out), ``store_dtype``
                what the numbers are stored as (float32 where it is left out, or bfloat16, half as large).
            source_layout: Layout of the source updates.
            target_layout: Layout of the target updates.

        Raises:
            OutputExistsError: If the folder holds something else.
            StoreError: If it holds a store of another plan, or the plan says nothing usable of the shadow sets.
        """
        folder = Path(folder)
        if not isinstance(plan.get("num_shadow_sets"), int):
            raise StoreError("the plan of an update store lacks num_shadow_sets, an integer.")
        planned_target_sets(plan)
        planned_dtype(plan)
        values = {
            "format": FORMAT,
            "plan": dict(plan),
            "source_layout": source_layout.to_dict(),
            "target_layout": target_layout.to_dict(),
        }
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        cls.require_usable(folder)
        if (folder / PLAN_FILE).is_file():
            require_same_plan(json.loads(text), read_plan(folder / PLAN_FILE), folder)
        else:
            (folder / SHARDS_FOLDER).mkdir(parents=True, exist_ok=True)
            write_bytes(folder / PLAN_FILE, text.encode())
        return cls(folder, json.loads(text))

    @classmethod
    def open(cls, folder: str | Path) -> UpdateStore:
        """Open a complete store.

        Raises:
            MissingFileError: If the folder is not there.
            StoreError: If it is no store, or not complete.
        """
        store = cls.resume(folder)
        missing = [path for path in store._shard_paths.values() if not path.is_file()]
        if missing or not (store.folder / MANIFEST_FILE).is_file():
            raise StoreError(
                f"update store '{store.folder}' is not complete: {len(missing)} of {len(store._shard_paths)} shards "
                "are missing. The same gradtx curate or gradtx store pull command continues it."
            )
        return store

    @classmethod
    def resume(cls, folder: str | Path) -> UpdateStore:
        """Open a store that may not be complete yet, to fill it.

        Raises:
            MissingFileError: If the folder is not there.
            StoreError: If it is no store.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise MissingFileError(f"update store '{folder}' is not there. Make one with gradtx curate.")
        if not (folder / PLAN_FILE).is_file():
            raise StoreError(f"'{folder}' is no update store: it has no {PLAN_FILE}. Make one with gradtx curate.")
        return cls(folder, read_plan(folder / PLAN_FILE))

    @staticmethod
    def require_usable(folder: str | Path) -> None:
        """Check that a folder can become a store, or is one.

        Raises:
            OutputExistsError: If it holds something else.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / PLAN_FILE).is_file() and not _is_unused(folder):
            raise OutputExistsError(
                f"folder '{folder}' exists and is no update store. Name a new one, or remove it first."
            )

    @property
    def num_shadow_sets(self) -> int:
        """Number of shadow sets that the plan names."""
        return int(self.plan["num_shadow_sets"])

    def shadow_sets(self, side: Side) -> Sequence[int]:
        """Return the shadow sets that have a run of a side, by the plan, ascending."""
        return range(self.num_shadow_sets) if side == "source" else planned_target_sets(self.plan)

    def has(self, side: Side, shadow_set: int) -> bool:
        """Return whether a run's shard is there and whole; a damaged one is to be written again."""
        path = self._shard_paths.get((side, shadow_set))
        return path is not None and is_whole(path)

    def write(self, side: Side, shadow_set: int, tokens: Tensor, info: Mapping[str, Any]) -> None:
        """Write the snapshots of one run.

        Args:
            side: ``source`` or ``target``.
            shadow_set: Number of the shadow set, from 0.
            tokens: Updates ``[W, N, D]``, oldest first; rounded to the store's number format.
            info: JSON values known of the run, such as its final loss; no times.

        Raises:
            LayoutError: If the tokens are not of the layout's shape.
            StoreError: If they are not finite, or the plan has no such run.
        """
        layout = self.layout(side)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (layout.num_blocks, layout.block_dim) or len(tokens) == 0:
            raise LayoutError(
                f"got {side} tokens of shape {list(tokens.shape)}, expected [W, {layout.num_blocks}, "
                f"{layout.block_dim}] with W ≥ 1."
            )
        tokens = tokens.to(self.dtype)
        if not bool(tokens.isfinite().all()):
            raise StoreError(f"the {side} run of shadow set {shadow_set} holds NaN or infinite values: it diverged.")
        path = self.shard_path(side, shadow_set)
        _write_beside_others(path, lambda: write_shard(path, tokens, {**info, "layout": layout.fingerprint}))
        self._mapped[side].forget(shadow_set)

    def finish(self) -> None:
        """Write the manifest: the store is complete.

        Raises:
            StoreError: If a shard is missing or damaged.
        """
        for leftover in [*self.folder.glob(".*.tmp"), *(self.folder / SHARDS_FOLDER).glob(".*.tmp")]:
            leftover.unlink(missing_ok=True)
        shards = {
            path.name: describe_shard(path, self._mapped[side].stored(shadow_set), side=side, shadow_set=shadow_set)
            for (side, shadow_set), path in self._shard_paths.items()
        }
        manifest = Manifest(sha256_of_file(self.folder / PLAN_FILE), shards)
        text = json.dumps(manifest.to_dict(), sort_keys=True, indent=1)
        path = self.folder / MANIFEST_FILE
        _write_beside_others(path, lambda: write_bytes(path, text.encode()))
        for name in ("_manifest", "pairs", "source_snapshots"):
            vars(self).pop(name, None)

    def read(self, side: Side, shadow_set: int) -> Tensor:
        """Return a run's snapshots ``[W, N, D]`` float32, oldest first.

        What is stored as float32 is mapped from the file: clone what you change. The rest is a copy.

        Raises:
            StoreError: If the plan has no such run, or its shard is missing or damaged.
        """
        return self._mapped[side].stored(shadow_set).float()

    def check(self, side: Side, shadow_set: int) -> None:
        """Map a run's shard, so that a missing one or one of another shape is refused now.

        Raises:
            StoreError: If the plan has no such run, or its shard is missing or damaged.
        """
        self._mapped[side].stored(shadow_set)

    def snapshot(self, side: Side, shadow_set: int, snapshot: int) -> Tensor:
        """Return one update ``[N, D]`` float32, as ``read`` does; -1 is the last snapshot, -2 the one before."""
        return self._mapped[side].stored(shadow_set)[snapshot].float()

    def snapshots(self, side: Side, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Return the updates of some (shadow set, snapshot) as one copy, ``[B, N, D]`` float32.

        Raises:
            StoreError: If the plan has no such run, or its shard is missing or damaged.
        """
        return self._mapped[side].gather(pairs)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Every (shadow set, snapshot) pair of the sets with runs on both sides, in order and without duplicates.

        The number of a snapshot is negative, -1 being the last: the i-th last of the source stands beside the i-th
        last of the target, also where one run was shorter.
        """
        return distinct_snapshots({k: [self._record(side, k) for side in SIDES] for k in self.shadow_sets("target")})

    @cached_property
    def source_snapshots(self) -> list[tuple[int, int]]:
        """Every (shadow set, snapshot) of the source side, in order, numbered as in ``pairs``, without duplicates."""
        return distinct_snapshots({k: [self._record("source", k)] for k in self.shadow_sets("source")})

    def info(self, side: Side, shadow_set: int) -> dict[str, Any]:
        """Return what is known of a run, such as its final loss."""
        return dict(self._record(side, shadow_set)["info"])

    def layout(self, side: Side) -> BlockLayout:
        """Return the layout of one side's updates."""
        return self.source_layout if side == "source" else self.target_layout

    def shard_path(self, side: Side, shadow_set: int) -> Path:
        """Return the file of a run, whether it is there or not.

        Raises:
            StoreError: If the plan has no such run.
        """
        if (side, shadow_set) not in self._shard_paths:
            raise StoreError(
                f"shadow set {shadow_set} has no {side} run: update store '{self.folder}' has "
                f"{len(self.shadow_sets(side))} for {self.num_shadow_sets} shadow sets. Curate with "
                "num_target_runs: null into a new folder for one each."
            )
        return self._shard_paths[side, shadow_set]

    def verify(self) -> None:
        """Check every file against the manifest.

        Raises:
            StoreError: If a shard or the plan is missing or not as it was written; the message names it.
        """
        for path, fault in self.damaged_files().items():
            raise StoreError(
                f"'{path}' is {fault}: its SHA-256 is not the manifest's. "
                "The same gradtx curate or gradtx store pull command writes it again."
            )

    def damaged_files(self) -> dict[Path, str]:
        """Return the files that are not as the manifest says, each with what it is: ``damaged`` or ``missing``."""
        expected = {self.folder / PLAN_FILE: self._manifest.plan_sha256}
        expected |= {path: self._record(*key)["sha256"] for key, path in self._shard_paths.items()}
        return find_damage(expected)

    @cached_property
    def _shard_paths(self) -> dict[tuple[Side, int], Path]:
        planned = {side: set(self.shadow_sets(side)) for side in SIDES}
        return {
            (side, shadow_set): self.folder / SHARDS_FOLDER / f"{side}-{shadow_set:05d}.safetensors"
            for shadow_set in range(self.num_shadow_sets)
            for side in SIDES
            if shadow_set in planned[side]
        }

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest.read(self.folder / MANIFEST_FILE)

    def _record(self, side: Side, shadow_set: int) -> Mapping[str, Any]:
        return self._manifest.record(self.shard_path(side, shadow_set))


def _is_unused(folder: Path) -> bool:
    """Return whether a folder is empty but for hidden files, such as a lock or what a killed process left."""
    return folder.is_dir() and all(
        path.name.startswith(".") or (path.name == SHARDS_FOLDER and not any(path.iterdir()))
        for path in folder.iterdir()
    )


def _write_beside_others(path: Path, write: Callable[[], None]) -> None:
    """Write a file of which another process may write the same content at the same time.

    One that finishes the store first sweeps temporary files away, which may still be another's; the file is there then.
    """
    try:
        write()
    except FileNotFoundError:
        if not path.is_file():
            raise
