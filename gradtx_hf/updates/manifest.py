"""The manifest of an update store: every shard's SHA-256, the hash of every snapshot, and what is known of the run.

Axes: W snapshots, N blocks, D the size of the largest block. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gradtx_hf.errors import StoreError
from gradtx_hf.updates.plan import FORMAT, read_json
from gradtx_hf.updates.shard import read_header, sha256_of_file, snapshot_hashes


@dataclass(frozen=True)
class Manifest:
    """What a store's manifest says.

    Attributes:
        plan_sha256: SHA-256 of the plan's file.
        shards: File name to what is known of the shard.
    """

    plan_sha256: str
    shards: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            StoreError: If it is missing, damaged, or of another version.
        """
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise StoreError(f"'{path}' is not of this version of update stores. Run the same curation again.")
        plan_sha256, shards = values.get("plan_sha256"), values.get("shards")
        if (
            not isinstance(plan_sha256, str)
            or not isinstance(shards, dict)
            or not all(map(_is_record, shards.values()))
        ):
            raise StoreError(f"'{path}' is damaged: it lacks what it knows of a shard. Run the same curation again.")
        return cls(plan_sha256, shards)

    def to_dict(self) -> dict[str, Any]:
        """Return all values, for the file."""
        return {"format": FORMAT, "plan_sha256": self.plan_sha256, "shards": self.shards}

    def record(self, path: Path) -> Mapping[str, Any]:
        """Return what is known of a shard.

        Raises:
            StoreError: If the manifest does not name it.
        """
        if path.name not in self.shards:
            raise StoreError(
                f"the manifest of '{path.parents[1]}' does not name {path.name}. Run the same curation again."
            )
        return self.shards[path.name]


def _is_record(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    snapshots = record.get("snapshots")
    return (
        isinstance(record.get("sha256"), str)
        and isinstance(record.get("info"), dict)
        and isinstance(snapshots, list)
        and all(isinstance(snapshot, str) for snapshot in snapshots)
    )


def describe_shard(path: Path, tokens: Tensor, *, side: str, shadow_set: int) -> dict[str, Any]:
    """Return what a manifest says of a shard.

    Args:
        path: The shard's file.
        tokens: Its tokens ``[W, N, D]``.
        side: ``source`` or ``target``.
        shadow_set: Number of the shadow set.

    Raises:
        StoreError: If the shard is missing or damaged.
    """
    return {
        "side": side,
        "shadow_set": shadow_set,
        "sha256": sha256_of_file(path),
        "snapshots": snapshot_hashes(tokens),
        "info": read_header(path).info,
    }


def distinct_snapshots(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[tuple[int, int]]:
    """Number the snapshots that runs side by side have in common, each content once, at its first place.

    Args:
        runs: Shadow set to the records of its runs; the i-th last snapshots of all of them stand side by side.

    Returns:
        (shadow set, snapshot) in the order of ``runs``; -1 is the last snapshot, -2 the one before.
    """
    found, seen = [], set()
    for shadow_set, records in runs.items():
        hashes = [record["snapshots"] for record in records]
        for snapshot in range(-min(map(len, hashes)), 0):
            content = tuple(run[snapshot] for run in hashes)
            if content not in seen:
                seen.add(content)
                found.append((shadow_set, snapshot))
    return found
