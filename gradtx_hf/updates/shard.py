"""One shard of an update store: the snapshots of one run as a safetensors file, the same bytes whenever written.

Its one tensor ``tokens`` is ``[W, N, D]`` float32 or bfloat16, oldest first. What is known of the run stands as one
JSON text in the header, because safetensors writes several entries in a random order.

Axes: W snapshots, N blocks, D the size of the largest block. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from gradtx_hf.errors import StoreError
from gradtx_hf.output import write_bytes


TENSOR_NAME = "tokens"
METADATA_KEY = "gradtx"
HEADER_SIZE_BYTES = 8
MAX_HEADER_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
"""As safetensors calls them."""


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself.

    Attributes:
        shape: (W, N, D).
        dtype: What the numbers are stored as.
        data_offset: First byte of the tensor in the file.
        info: What is known of the run.
        content_sha256: SHA-256 of the tensor's bytes, as it was written.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    data_offset: int
    info: dict[str, Any]
    content_sha256: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.data_offset + self.dtype.itemsize * self.shape[0] * self.shape[1] * self.shape[2]


def write_shard(path: Path, tokens: Tensor, info: Mapping[str, Any]) -> None:
    """Write a shard whole or not at all.

    Args:
        path: The file; replaced if it is there.
        tokens: ``[W, N, D]`` float32 or bfloat16, oldest first; stored as they are.
        info: JSON values known of the run.
    """
    tokens = tokens.detach().cpu().contiguous()
    text = json.dumps({"info": dict(info), "content_sha256": _sha256_of(tokens)}, sort_keys=True)
    write_bytes(path, save({TENSOR_NAME: tokens}, metadata={METADATA_KEY: text}))


def read_header(path: Path) -> ShardHeader:
    """Read a shard's header and check that the file is as long as it says.

    Raises:
        StoreError: If it is no shard, or cut short.
    """
    try:
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(HEADER_SIZE_BYTES))
            if size > MAX_HEADER_BYTES:
                raise ValueError("header too long")
            values = json.loads(stream.read(size))
        own = json.loads(values["__metadata__"][METADATA_KEY])
        num_snapshots, num_blocks, block_dim = values[TENSOR_NAME]["shape"]
        shape = (int(num_snapshots), int(num_blocks), int(block_dim))
        dtype = DTYPES[values[TENSOR_NAME]["dtype"]]
        if min(shape) < 1 or size % 4 != 0 or values[TENSOR_NAME]["data_offsets"][0] != 0:
            raise ValueError(f"tokens of shape {list(shape)}, not at the start of the data")
        header = ShardHeader(shape, dtype, HEADER_SIZE_BYTES + size, own["info"], str(own["content_sha256"]))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError, struct.error) as error:
        raise StoreError(f"shard '{path}' is damaged: {error!r}. Run the same curation again.") from error
    num_bytes = path.stat().st_size
    if num_bytes != header.num_bytes:
        raise StoreError(f"shard '{path}' has {num_bytes} bytes, expected {header.num_bytes}. Run the curation again.")
    return header


def map_tokens(path: Path, header: ShardHeader) -> Tensor:
    """Map a shard's tensor into memory.

    Returns:
        ``[W, N, D]`` as stored, on the file's own pages: nothing is read before it is used, no file stays open, and
        what is written to it stays private.
    """
    itemsize = header.dtype.itemsize
    elements = torch.from_file(str(path), shared=False, size=header.num_bytes // itemsize, dtype=header.dtype)
    return elements[header.data_offset // itemsize :].view(header.shape)


def is_whole(path: Path) -> bool:
    """Return whether the file is a shard with the content that was written."""
    try:
        header = read_header(path)
    except StoreError:
        return False
    return _sha256_of(map_tokens(path, header)) == header.content_sha256


def snapshot_hashes(tokens: Tensor) -> list[str]:
    """Return the first 16 hexadecimal digits of each snapshot's SHA-256; tokens are ``[W, N, D]`` as stored."""
    return [_sha256_of(snapshot)[:16] for snapshot in tokens]


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def find_damage(expected: Mapping[Path, str]) -> dict[Path, str]:
    """Return the files that are not as they were written, each with what it is: ``damaged`` or ``missing``.

    Args:
        expected: File to its SHA-256, in hexadecimal digits.
    """
    present = {path for path in expected if path.is_file()}
    damaged = {path for path in present if sha256_of_file(path) != expected[path]}
    return {
        path: "damaged" if path in damaged else "missing" for path in expected if path in damaged or path not in present
    }


def _sha256_of(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.view(torch.uint8).numpy().data).hexdigest()
