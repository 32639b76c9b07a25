"""CommonsenseQA (Talmor et al. 2019): a question of everyday knowledge, five choices, no rationale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradtx_hf.tasks.choices import choice_prompt
from gradtx_hf.tasks.scoring import score_choice
from gradtx_hf.tasks.task import ANSWER_MARK, Task, TaskExample


def _examples(row: Mapping[str, Any]) -> list[TaskExample]:
    if isinstance(row["question"], Mapping):  # the original files
        question, choices = row["question"]["stem"], [(c["label"], c["text"]) for c in row["question"]["choices"]]
    else:
        question, choices = row["question"], list(zip(row["choices"]["label"], row["choices"]["text"], strict=True))
    answer = row.get("answerKey") or ""
    if not answer:  # the test split keeps its answers back
        return []
    return [TaskExample(choice_prompt(question, choices), f"{ANSWER_MARK} {answer}", (answer,))]


COMMONSENSE_QA = Task(
    name="commonsense_qa",
    data_set="tau/commonsense_qa",
    splits=("train", "validation"),
    examples=_examples,
    score=score_choice,
    max_new_tokens=8,
    example_row={
        "id": "1",
        "question": "Where does a pen lie?",
        "question_concept": "pen",
        "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["river", "desk", "cloud", "shoe", "tree"]},
        "answerKey": "B",
    },
)
