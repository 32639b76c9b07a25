"""Markdown of cards: templates, tables, and values that cannot break out of the place where they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from gradtx_hf.hub.wording import without_private


TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = re.compile(r"\$(\w+)")
LONGEST_VALUE = 500
"""Characters of one value that a card shows."""


def render_template(name: str, values: Mapping[str, str]) -> str:
    """Fill a template.

    A line that is one placeholder disappears where its value is empty, and a section (``## ...``) where all of its
    placeholders are.

    Args:
        name: File in ``templates``, without its suffix.
        values: Placeholder to Markdown.
    """
    text = (TEMPLATES / f"{name}.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    filled = [_fill(section, values) for section in sections]
    return "\n\n".join(section for section in filled if section) + "\n"


def _fill(section: str, values: Mapping[str, str]) -> str:
    names = PLACEHOLDER.findall(section)
    if section.startswith("## ") and names and not any(values[name] for name in names):
        return ""
    lines = [line for line in section.splitlines() if not _is_empty(line, values)]
    text = Template("\n".join(lines)).substitute(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _is_empty(line: str, values: Mapping[str, str]) -> bool:
    match = PLACEHOLDER.fullmatch(line.strip())
    return match is not None and not values[match[1]]


def plain(value: object) -> str:
    """Return a value as text within a line of Markdown: nothing private, no markup, no end of a comment."""
    text = " ".join(str(without_private(str(value))).split())[:LONGEST_VALUE]
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def code(value: object) -> str:
    """Return a value as inline code; what would end it is left out."""
    text = " ".join(str(without_private(str(value))).split())[:LONGEST_VALUE]
    return f"`{re.sub(r'[`|<>]', '', text) or '-'}`"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar within a cell is escaped, a line break becomes a space."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
