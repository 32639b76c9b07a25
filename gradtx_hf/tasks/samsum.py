"""SAMSum (Gliwa et al. 2019): messenger chats and their summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradtx_hf.tasks.dialogues import summary_example
from gradtx_hf.tasks.scoring import score_rouge1
from gradtx_hf.tasks.task import Task, TaskExample


def _examples(row: Mapping[str, Any]) -> list[TaskExample]:
    is_whole = bool(row["dialogue"] and row["dialogue"].strip() and row["summary"].strip())
    return [summary_example(row["dialogue"], [row["summary"]])] if is_whole else []


SAMSUM = Task(
    name="samsum",
    data_set="knkarthick/samsum",
    splits=("train", "validation", "test"),
    examples=_examples,
    score=score_rouge1,
    score_name="rouge1",
    max_new_tokens=96,
    example_row={
        "id": "1",
        "dialogue": "Ann: Have you my pen?\r\nBob: It is on the desk.\r\n",
        "summary": "Ann's pen is on the desk.",
    },
)
