"""How a question with lettered choices is put."""

from __future__ import annotations

from collections.abc import Iterable


def choice_prompt(question: str, choices: Iterable[tuple[str, str]]) -> str:
    """Return a question and its choices, one a line: letter in brackets, then text."""
    return "\n".join([question.strip(), *(f"({letter}) {text.strip()}" for letter, text in choices)])
