"""Write what an audit found beside an adapter: into privacy.json, and into its card if it has one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.hub.markdown import plain
from gradtx_hf.output import write_json, write_text
from gradtx_hf.translation.audit_record import AUDIT_KEY, audit_text
from gradtx_hf.translation.records import PRIVACY_FILE, load_record


HEADING = "## Privacy audit"


def write_audit(folder: Path, record: Mapping[str, Any], *, name: str) -> None:
    """Write an audit's record into an adapter's folder, in place of an earlier one.

    ``gradtx push`` takes it from privacy.json into the published card; the card in the folder gets a section of its
    own.

    Args:
        folder: The adapter's folder.
        record: What was found (see ``AdapterAudit.record``).
        name: What messages call the adapter.

    Raises:
        LayoutError: If privacy.json is damaged.
    """
    statement = load_record(folder, PRIVACY_FILE, name=name) or {}
    write_json(folder / PRIVACY_FILE, statement | {AUDIT_KEY: dict(record)})
    card = folder / "README.md"
    if not card.is_file():
        return
    text = re.sub(rf"\n*^{HEADING}\n.*?(?=^## |\Z)", "\n\n", card.read_text(encoding="utf-8"), flags=re.M | re.S)
    section = f"{HEADING}\n\nA measurement, and no guarantee: {plain(audit_text(record))}.\n"
    write_text(card, f"{text.rstrip()}\n\n{section}")
