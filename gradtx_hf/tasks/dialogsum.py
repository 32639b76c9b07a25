"""DialogSum (Chen et al. 2021): spoken dialogues and their summaries; the test split has three of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradtx_hf.tasks.dialogues import summary_example
from gradtx_hf.tasks.scoring import score_rouge1
from gradtx_hf.tasks.task import Task, TaskExample


def _examples(row: Mapping[str, Any]) -> list[TaskExample]:
    names = (
        ["summary"] if "summary" in row else ["summary1", "summary2", "summary3"]
    )  # the original test file has three
    return [summary_example(row["dialogue"], [row[name] for name in names])]


DIALOGSUM = Task(
    name="dialogsum",
    data_set="knkarthick/dialogsum",
    splits=("train", "validation", "test"),
    examples=_examples,
    score=score_rouge1,
    score_name="rouge1",
    max_new_tokens=128,
    example_row={
        "id": "1",
        "dialogue": "Ann: Have you my pen?\r\nBob: It is on the desk.\r\n",
        "summary": "Ann's pen is on the desk.",
        "topic": "pen",
    },
)
