"""What a repository on the tests' Hub holds, and the code that its card prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download


def repo_files(repo_id: str, *, revision: str | None = None) -> dict[str, bytes]:
    """Return all files of a repository by path."""
    folder = Path(snapshot_download(repo_id, revision=revision))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".gitattributes"
    }


def card_of(repo_id: str, *, revision: str | None = None) -> tuple[dict[str, Any], str]:
    """Return metadata and text of a repository's card."""
    _, front, body = repo_files(repo_id, revision=revision)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), body


def code_of(body: str) -> list[str]:
    """Return the Python blocks that a card prints."""
    return re.findall(r"^```python\n(.*?)^```$", body, flags=re.DOTALL | re.MULTILINE)
