"""Read a folder that somebody else wrote: from inside it alone, and nothing that was not measured first.

No file is unpickled. A link that leads out of the folder is refused, but for the Hub's cache, whose snapshots link to
the blobs beside them. JSON and the headers of safetensors files are bounded, so that what is read of a file's tensors
takes no more memory than the file takes on the disk.

Source: ours; safetensors' own checks (offsets without gaps or overlaps, sizes that add up) come on top.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gradtx_hf.errors import GradTxError, MissingFileError


MAX_JSON_BYTES = 8 << 20
"""Of a JSON file and of a safetensors header, which is one too: some 50,000 tensors."""
MAX_DEPTH = 32
"""Of lists and objects within one another."""
HEADER_SIZE_BYTES = 8
LFS_POINTER = b"version https://git-lfs"
DAMAGE = (
    SafetensorError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
)
"""What libraries raise for a file or for values that cannot be."""
CACHED_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")


@dataclass(frozen=True)
class TensorInfo:
    """What a safetensors header says of a tensor.

    Attributes:
        dtype: As safetensors calls it, such as ``F32``.
        shape: The tensor's shape.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ForeignFolder:
    """A folder that somebody else wrote.

    Attributes:
        path: The folder; it may itself be named by a link.
        owner: What messages call it, such as ``translator 'org/name'``.
        error: What damage is reported as.
    """

    path: Path
    owner: str
    error: type[GradTxError]

    def find(self, name: str) -> Path | None:
        """Return the path of a file or folder inside, None if it is not there.

        Raises:
            GradTxError: Of the folder's kind, if it is a link that leads out of the folder.
        """
        path = self.path / name
        try:
            if not path.exists():
                return None
            real, home = path.resolve(strict=True), self.path.resolve(strict=True)
        except (OSError, RuntimeError):  # links in a circle, or a folder that may not be entered
            return None
        if not any(real.is_relative_to(place) for place in (home, *_blob_folders(home))):
            raise self.error(
                f"{name} of {self.owner} is a link that leads out of its folder, which is not followed. Put the file "
                "itself there."
            )
        return path

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name; raises as ``find`` does."""
        path = self.find(name)
        return path is not None and path.is_file()

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Read a JSON file.

        Raises:
            MissingFileError: If it is not there.
            GradTxError: Of the folder's kind, if it is not JSON, too long, or too deeply nested.
        """
        path = self._require(name)
        try:
            with path.open("rb") as stream:
                content = stream.read(MAX_JSON_BYTES + 1)
            return parse_json(content)
        except (OSError, ValueError, RecursionError) as error:
            raise self.error(
                f"{name} of {self.owner} is not JSON ({_one_line(error)}). Save, copy or download it again."
            ) from error

    @contextmanager
    def open_tensors(self, name: str) -> Iterator[tuple[Any, dict[str, TensorInfo]]]:
        """Open a safetensors file: yields safetensors' own handle, and what the header says of every tensor.

        Raises:
            MissingFileError: If it is not there.
            GradTxError: Of the folder's kind, if it is damaged, or what is done with it finds damage.
        """
        path = self._require(name)
        try:
            infos = _read_header(path)
            with safe_open(path, framework="pt") as opened:
                yield opened, infos
        except GradTxError:
            raise
        except DAMAGE as error:
            # damage is met at any depth: in the header, in safetensors' parser, in a number format, in a shape
            raise self.error(
                f"{name} of {self.owner} is truncated or damaged ({_one_line(error)}). Copy or download it again."
            ) from error

    def _require(self, name: str) -> Path:
        path = self.find(name)
        if path is None or not path.is_file():
            raise MissingFileError(f"{self.owner} has no {name}. Copy or download it again.")
        if _starts_with(path, LFS_POINTER):
            raise self.error(f"{name} of {self.owner} is a Git-LFS pointer, not the file. Run 'git lfs pull'.")
        return path


def parse_json(content: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON that somebody else wrote.

    Raises:
        ValueError: If it is none, longer than ``MAX_JSON_BYTES``, nested deeper than ``MAX_DEPTH``, or names a key
            twice in one object.
        RecursionError: If it is nested far deeper.
    """
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
    values = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    _require_shallow(values, MAX_DEPTH)
    return values


def _read_header(path: Path) -> dict[str, TensorInfo]:
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(HEADER_SIZE_BYTES), "little")
        if size > MAX_JSON_BYTES:
            raise ValueError(f"its header has {size} bytes, at most {MAX_JSON_BYTES} are read")
        values = parse_json(stream.read(size))
    infos = {}
    for name, value in values.items():
        if name != "__metadata__":
            shape = tuple(value["shape"])
            if not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 8:
                raise ValueError(f"tensor {name!r} has a shape that no tensor has")
            infos[name] = TensorInfo(str(value["dtype"]), shape)
    if sum(math.prod(info.shape) for info in infos.values()) > 2 * path.stat().st_size:  # two to a byte at most
        raise ValueError("its header names more elements than the file has bytes for")
    return infos


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object names a key twice")
    return values


def _require_shallow(values: Any, levels: int) -> None:  # noqa: ANN401 - any JSON value
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list):
        if levels == 0:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        for value in values:
            _require_shallow(value, levels - 1)


def _blob_folders(home: Path) -> Iterator[Path]:
    """Yield where the Hub's cache keeps the files that a snapshot in it links to: the repository's, and shared ones."""
    for folder in (home, *home.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and CACHED_REPOSITORY.fullmatch(repository.name):
            yield repository / "blobs"
            yield repository.parent / "blobs"


def _starts_with(path: Path, content: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(content)) == content
    except OSError:  # said where it is read
        return False


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
