"""What tells whether a corpus still holds what it held: one digest of its rows, whatever file they lie in."""

from __future__ import annotations

import hashlib
import json

from datasets import Dataset


def sha256_of_rows(examples: Dataset) -> str:
    """Return the SHA-256 of the examples as they are used, in hexadecimal digits."""
    digest = hashlib.sha256()
    for row in examples:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
