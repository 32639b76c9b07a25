"""Runs of an update store as Parquet files: what ``datasets`` reads, and what gives the shards back byte for byte.

A row is one snapshot of one run. A file holds whole runs of one side, one after the other, and in its metadata the
header of each run's shard; header and tokens are all of a shard, so nothing is kept twice.

Columns: ``shadow_set``, ``side``, ``snapshot`` (-1 is a run's last, so that equal numbers stand side by side),
``label`` (the corpora of the shadow set), ``num_blocks`` N, ``block_dim`` D, ``tokens`` ``[N * D]`` float32, row-major.
What a store keeps as bfloat16 is float32 here, too: its lower bytes are all zero, and compress to nothing.

Source: ours.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has no stubs
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # the same
import torch

from gradtx_hf.errors import StoreError
from gradtx_hf.updates.shard import HEADER_SIZE_BYTES, read_header
from gradtx_hf.updates.store import SIDES, Side, UpdateStore


DATA_FOLDER = "data"
SHARDS_KEY = b"gradtx_shards"
"""Metadata key of the list of a file's shards: name, header and number of snapshots of each."""
MAX_FILE_BYTES = 1 << 29
"""Bytes of tokens after which the next run begins a new file; a run is never split."""
MAX_GROUP_BYTES = 1 << 25
"""Bytes of tokens in a row group, at most, which is what a reader of a stream holds at once."""


@dataclass(frozen=True)
class RunFile:
    """Which runs stand in a file.

    Attributes:
        path: Path in the repository.
        side: The side of all of its runs.
        shadow_sets: Their shadow sets, ascending.
    """

    path: str
    side: Side
    shadow_sets: tuple[int, ...]


def plan_run_files(store: UpdateStore, *, max_file_bytes: int = MAX_FILE_BYTES) -> list[RunFile]:
    """Spread all runs of a store over files, in order; the same store always gives the same files."""
    files = []
    for side in SIDES:
        groups: list[list[int]] = []
        num_bytes = 0
        for shadow_set in store.shadow_sets(side):
            size = store.shard_path(side, shadow_set).stat().st_size
            if not groups or num_bytes + size > max_file_bytes:
                groups.append([])
                num_bytes = 0
            groups[-1].append(shadow_set)
            num_bytes += size
        files += [
            RunFile(f"{DATA_FOLDER}/{side}-{number:05d}-of-{len(groups):05d}.parquet", side, tuple(group))
            for number, group in enumerate(groups)
        ]
    return files


def write_run_file(store: UpdateStore, run_file: RunFile, path: Path) -> None:
    """Write a file of runs; the same bytes whenever the same version of pyarrow writes it.

    Args:
        store: The complete store.
        run_file: Which runs.
        path: The file to write.
    """
    layout = store.layout(run_file.side)
    width = layout.num_blocks * layout.block_dim
    headers = [_describe_shard(store, run_file.side, k) for k in run_file.shadow_sets]
    schema = _schema(width).with_metadata({SHARDS_KEY: json.dumps(headers)})
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=["tokens.list.element"],  # bytes of equal weight together: floats then compress
        write_statistics=False,
    ) as writer:
        for k in run_file.shadow_sets:
            table = _run_table(store, run_file.side, k, schema)
            writer.write_table(table, row_group_size=max(1, MAX_GROUP_BYTES // (4 * width)))


def read_shards(path: Path, *, widths: Mapping[Side, int], dtype: torch.dtype) -> Iterator[tuple[str, bytes]]:
    """Return the name and content of every shard in a file, one after the other.

    Args:
        path: The Parquet file.
        widths: N * D by side.
        dtype: What the shards keep numbers as.

    Raises:
        StoreError: If the file is damaged, or its rows are not what its metadata say.
    """
    try:
        with pq.ParquetFile(path) as file:
            rows = _Rows(file, dtype)
            for name, header, num_snapshots in json.loads(file.schema_arrow.metadata[SHARDS_KEY]):
                side: Side = "source" if name.startswith("source") else "target"
                content = header.encode()
                tokens = rows.take(num_snapshots, width=widths[side])
                yield name, b"".join([struct.pack("<Q", len(content)), content, tokens])
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"'{path.name}' is damaged ({type(error).__name__}): it gives no shards. Pull again."
        ) from error


class _Rows:
    """The tokens of a file, row group by row group."""

    def __init__(self, file: pq.ParquetFile, dtype: torch.dtype) -> None:
        self._file = file
        self._dtype = dtype
        self._next_group = 0

    def take(self, num_rows: int, *, width: int) -> bytes:
        """Return the tokens of the next rows; a run's rows fill whole row groups."""
        parts, missing = [], num_rows
        while missing > 0:
            count = self._file.metadata.row_group(self._next_group).num_rows
            if count > missing:
                raise ValueError("a row group reaches over the end of a run")
            if count > max(1, MAX_GROUP_BYTES // (4 * width)):  # a small file may unpack to any size
                raise ValueError(f"a row group of {count} rows, larger than any that is pushed")
            column = self._file.read_row_group(self._next_group, columns=["tokens"]).column("tokens").combine_chunks()
            if column.type.list_size != width or len(column) != count:
                raise ValueError("tokens of another layout")
            numbers = column.flatten().to_numpy().astype("<f4", copy=False)
            if self._dtype == torch.bfloat16:
                numbers = numbers.view("<u2")[1::2]  # the upper halves; the lower ones are zero
            parts.append(numbers.tobytes())
            missing -= count
            self._next_group += 1
        return b"".join(parts)


def _schema(width: int) -> pa.Schema:
    return pa.schema(
        [
            ("shadow_set", pa.int32()),
            ("side", pa.string()),
            ("snapshot", pa.int32()),
            ("label", pa.string()),
            ("num_blocks", pa.int32()),
            ("block_dim", pa.int32()),
            ("tokens", pa.list_(pa.float32(), width)),
        ]
    )


def _run_table(store: UpdateStore, side: Side, shadow_set: int, schema: pa.Schema) -> pa.Table:
    tokens = store.read(side, shadow_set)  # [W, N, D]
    num_snapshots, num_blocks, block_dim = tokens.shape
    columns: list[Any] = [
        np.full(num_snapshots, shadow_set),
        [side] * num_snapshots,
        np.arange(-num_snapshots, 0),
        [label_of(store, shadow_set)] * num_snapshots,
        np.full(num_snapshots, num_blocks),
        np.full(num_snapshots, block_dim),
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=False)]
    flat = pa.array(tokens.reshape(-1).numpy())
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, num_blocks * block_dim))
    return pa.Table.from_arrays(arrays, schema=schema)


def label_of(store: UpdateStore, shadow_set: int) -> str:
    """Return the labels of the corpora that a shadow set holds rows of; empty if the store's plan does not say."""
    chosen = store.plan.get("shadow_sets")
    return ", ".join(chosen[shadow_set]) if chosen else ""


def _describe_shard(store: UpdateStore, side: Side, shadow_set: int) -> tuple[str, str, int]:
    """Return a shard's name, the text of its header, and its number of snapshots."""
    path = store.shard_path(side, shadow_set)
    header = read_header(path)
    with path.open("rb") as stream:
        content = stream.read(header.data_offset)[HEADER_SIZE_BYTES:]
    return path.name, content.decode(), header.shape[0]
