"""File contents, each kept once under its sha256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterable
from pathlib import Path

from gradtx_hf.playground.hub_server.refusal import Refusal


class BlobStore:
    """A folder of contents; a content is there whole, under its own checksum, or not at all.

    Args:
        folder: Where to keep them; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where the content of a checksum is, or would be."""
        return self.folder / sha256

    def holds(self, sha256: str) -> bool:
        """Return whether there is a content of this checksum."""
        return re.fullmatch(r"[0-9a-f]{64}", sha256) is not None and self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """Return a content's size in bytes."""
        return self.path(sha256).stat().st_size

    def read(self, sha256: str) -> bytes:
        """Return a content."""
        return self.path(sha256).read_bytes()

    def put(self, content: bytes) -> str:
        """Keep a content and return its checksum."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.holds(sha256):
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as stream:
                stream.write(content)
            Path(stream.name).replace(self.path(sha256))
        return sha256

    async def receive(self, chunks: AsyncIterable[bytes], *, sha256: str) -> None:
        """Keep a content that arrives in pieces.

        Raises:
            Refusal: If what arrived has another checksum; nothing is kept then.
        """
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                async for chunk in chunks:
                    digest.update(chunk)
                    stream.write(chunk)
            if digest.hexdigest() != sha256:
                raise Refusal(400, f"content has sha256 {digest.hexdigest()}, expected {sha256}. Upload it again.")
            Path(name).replace(self.path(sha256))
        finally:
            Path(name).unlink(missing_ok=True)


def git_blob_id(content: bytes) -> str:
    """Return the id under which git keeps a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the text that git keeps in the place of a large file (git-lfs spec v1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
