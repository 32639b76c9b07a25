"""UpdateStore: the update pairs of a curation in a folder, resumable, memory-mapped, without duplicates.

    plan.json        written first: all that determines the content, and both layouts
    shards/          one file per run: source-00000.safetensors, target-00000.safetensors, …
    manifest.json    written last: every shard's SHA-256, the hash of every snapshot, and what is known of the run

No file holds a time or a name of the machine, so an interrupted and continued curation ends with the same bytes.
Whoever fills the store may keep further files in the folder, such as the initial adapters.

Axes: W snapshots, N blocks, D the size of the largest block. Source: paper Sec. 3 (curation); the format is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gradtx_hf.errors import LayoutError, MissingFileError, OutputExistsError, StoreError
from gradtx_hf.output import write_bytes
from gradtx_hf.updates.layout import BlockLayout
from gradtx_hf.updates.plan import read_json, require_same_plan
from gradtx_hf.updates.shard import (
    is_whole,
    map_tokens,
    read_header,
    sha256_of_file,
    snapshot_hashes,
    write_shard,
)


Side = Literal["source", "target"]

SIDES: tuple[Side, Side] = ("source", "target")
FORMAT = "gradtx update store 1"
PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
SHARDS_FOLDER = "shards"


class UpdateStore:
    """A folder of update pairs; made by ``create`` or ``open``.

    Attributes:
        folder: The folder.
        plan: All that determines the content, as JSON values; ``num_shadow_sets`` among them.
        source_layout: Layout of the source updates.
        target_layout: Layout of the target updates.
    """

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = values["plan"]
        self.source_layout = BlockLayout.from_dict(values["source_layout"])
        self.target_layout = BlockLayout.from_dict(values["target_layout"])
        self._mapped: dict[tuple[Side, int], Tensor] = {}

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
            plan: JSON values; ``num_shadow_sets`` says how many shadow sets the store is to hold.
            source_layout: Layout of the source updates.
            target_layout: Layout of the target updates.

        Raises:
            OutputExistsError: If the folder holds something else.
            StoreError: If it holds a store of another plan, or the plan lacks ``num_shadow_sets``.
        """
        folder = Path(folder)
        if not isinstance(plan.get("num_shadow_sets"), int):
            raise StoreError("the plan of an update store lacks num_shadow_sets, an integer.")
        values = {
            "format": FORMAT,
            "plan": dict(plan),
            "source_layout": source_layout.to_dict(),
            "target_layout": target_layout.to_dict(),
        }
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        cls.require_usable(folder)
        if (folder / PLAN_FILE).is_file():
            require_same_plan(json.loads(text), _read_plan(folder), folder)
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
                "are missing. The same gradtx curate command continues it."
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
        return cls(folder, _read_plan(folder))

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

    def has(self, side: Side, shadow_set: int) -> bool:
        """Return whether a run's shard is there and whole; a damaged one is to be written again."""
        return is_whole(self._shard_paths[side, shadow_set])

    def write(self, side: Side, shadow_set: int, tokens: Tensor, info: Mapping[str, Any]) -> None:
        """Write the snapshots of one run.

        Args:
            side: ``source`` or ``target``.
            shadow_set: Number of the shadow set, from 0.
            tokens: Updates ``[W, N, D]``, oldest first.
            info: JSON values known of the run, such as its final loss; no times.

        Raises:
            LayoutError: If the tokens are not of the layout's shape.
            StoreError: If they are not finite.
        """
        layout = self.layout(side)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (layout.num_blocks, layout.block_dim) or len(tokens) == 0:
            raise LayoutError(
                f"got {side} tokens of shape {list(tokens.shape)}, expected [W, {layout.num_blocks}, "
                f"{layout.block_dim}] with W ≥ 1."
            )
        if not bool(tokens.isfinite().all()):
            raise StoreError(f"the {side} run of shadow set {shadow_set} holds NaN or infinite values: it diverged.")
        write_shard(self._shard_paths[side, shadow_set], tokens, {**info, "layout": layout.fingerprint})
        self._mapped.pop((side, shadow_set), None)

    def finish(self) -> None:
        """Write the manifest: the store is complete.

        Raises:
            StoreError: If a shard is missing or damaged.
        """
        for leftover in [*self.folder.glob(".*.tmp"), *(self.folder / SHARDS_FOLDER).glob(".*.tmp")]:
            leftover.unlink()
        shards = {}
        for (side, shadow_set), path in self._shard_paths.items():
            header = read_header(path)
            shards[path.name] = {
                "side": side,
                "shadow_set": shadow_set,
                "sha256": sha256_of_file(path),
                "snapshots": snapshot_hashes(self.read(side, shadow_set)),
                "info": header.info,
            }
        manifest = {"format": FORMAT, "plan_sha256": sha256_of_file(self.folder / PLAN_FILE), "shards": shards}
        write_bytes(self.folder / MANIFEST_FILE, json.dumps(manifest, sort_keys=True, indent=1).encode())
        for name in ("_manifest", "pairs"):
            vars(self).pop(name, None)

    def read(self, side: Side, shadow_set: int) -> Tensor:
        """Return a run's snapshots ``[W, N, D]`` float32, oldest first, mapped from the file: clone what you change."""
        key = (side, shadow_set)
        if key not in self._mapped:
            path = self._shard_paths[key]
            header = read_header(path)
            layout = self.layout(side)
            if header.shape[1:] != (layout.num_blocks, layout.block_dim):
                raise StoreError(f"shard '{path}' holds tokens of another layout. Curate again.")
            self._mapped[key] = map_tokens(path, header)
        return self._mapped[key]

    def check(self, side: Side, shadow_set: int) -> None:
        """Map a run's shard, so that a missing one or one of another shape is refused now.

        Raises:
            StoreError: If the shard is missing or damaged.
        """
        self.read(side, shadow_set)

    def snapshot(self, side: Side, shadow_set: int, snapshot: int) -> Tensor:
        """Return one update ``[N, D]`` float32, mapped from the file; -1 is the last snapshot, -2 the one before."""
        return self.read(side, shadow_set)[snapshot]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Every (shadow set, snapshot) pair, in order and without duplicates.

        The number of a snapshot is negative, -1 being the last: the i-th last of the source stands beside the i-th
        last of the target, also where one run was shorter.
        """
        pairs, seen = [], set()
        for shadow_set in range(self.num_shadow_sets):
            source, target = (self._record(side, shadow_set)["snapshots"] for side in SIDES)
            for snapshot in range(-min(len(source), len(target)), 0):
                content = (source[snapshot], target[snapshot])
                if content not in seen:
                    seen.add(content)
                    pairs.append((shadow_set, snapshot))
        return pairs

    def info(self, side: Side, shadow_set: int) -> dict[str, Any]:
        """Return what is known of a run, such as its final loss."""
        return dict(self._record(side, shadow_set)["info"])

    def layout(self, side: Side) -> BlockLayout:
        """Return the layout of one side's updates."""
        return self.source_layout if side == "source" else self.target_layout

    def verify(self) -> None:
        """Check every file against the manifest.

        Raises:
            StoreError: If a shard or the plan is missing or not as it was written; the message names it.
        """
        expected = {path: self._record(*key)["sha256"] for key, path in self._shard_paths.items()}
        expected[self.folder / PLAN_FILE] = self._manifest["plan_sha256"]
        for path, sha256 in expected.items():
            if not path.is_file() or sha256_of_file(path) != sha256:
                raise StoreError(
                    f"'{path}' is {'damaged' if path.is_file() else 'missing'}: its SHA-256 is not the manifest's. "
                    "The same gradtx curate command writes it again."
                )

    @cached_property
    def _shard_paths(self) -> dict[tuple[Side, int], Path]:
        return {
            (side, shadow_set): self.folder / SHARDS_FOLDER / f"{side}-{shadow_set:05d}.safetensors"
            for shadow_set in range(self.num_shadow_sets)
            for side in SIDES
        }

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST_FILE
        manifest: dict[str, Any] = read_json(path)
        if manifest.get("format") != FORMAT:
            raise StoreError(f"'{path}' is not of this version of update stores. Run the same curation again.")
        return manifest

    def _record(self, side: Side, shadow_set: int) -> dict[str, Any]:
        name = self._shard_paths[side, shadow_set].name
        record: dict[str, Any] | None = self._manifest["shards"].get(name)
        if record is None:
            raise StoreError(f"the manifest of '{self.folder}' does not name {name}. Run the same curation again.")
        return record


def _is_unused(folder: Path) -> bool:
    """Return whether a folder is empty but for hidden files, such as a lock or what a killed process left."""
    return folder.is_dir() and all(
        path.name.startswith(".") or (path.name == SHARDS_FOLDER and not any(path.iterdir()))
        for path in folder.iterdir()
    )


def _read_plan(folder: Path) -> dict[str, Any]:
    values = read_json(folder / PLAN_FILE)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise StoreError(f"'{folder / PLAN_FILE}' is no plan of an update store of this version. Name a new folder.")
    return values
