"""A study's folder is its own: what fills it is noted at the start, and nothing else goes on in it. Source: ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.errors import OutputExistsError
from gradtx_hf.output import require_new_folder, write_json


STUDY_FILE = "study.json"


def claim_folder(folder: Path, values: Mapping[str, Any]) -> Path:
    """Note in a new folder what is to fill it, or see that a folder is of the very same.

    Args:
        folder: The folder.
        values: Name and settings of the study, as JSON values; tuples count as lists.

    Raises:
        OutputExistsError: If the folder holds something else.
    """
    path, noted = folder / STUDY_FILE, json.loads(json.dumps(values))
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != noted:
            raise OutputExistsError(f"'{folder}' holds another study, or one of other settings. Name a new folder.")
        return folder
    require_new_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(path, noted)
    return folder
