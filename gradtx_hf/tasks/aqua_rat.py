"""AQuA-RAT (Ling et al. 2017): algebra in words, five choices, with a rationale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradtx_hf.tasks.choices import choice_prompt
from gradtx_hf.tasks.scoring import score_choice
from gradtx_hf.tasks.task import ANSWER_MARK, Task, TaskExample


def _examples(row: Mapping[str, Any]) -> list[TaskExample]:
    options = [option.partition(")") for option in row["options"]]  # "A)21"
    prompt = choice_prompt(row["question"], ((letter.strip(" ("), text) for letter, _, text in options))
    completion = f"{row['rationale'].strip()}\n{ANSWER_MARK} {row['correct']}"
    return [TaskExample(prompt, completion, (row["correct"],))]


AQUA_RAT = Task(
    name="aqua_rat",
    data_set="deepmind/aqua_rat",
    config="raw",
    splits=("train", "validation", "test"),
    examples=_examples,
    score=score_choice,
    max_new_tokens=384,
    example_row={
        "question": "A pen costs 3. What do 7 pens cost?",
        "options": ["A)10", "B)21", "C)24", "D)4", "E)None of these"],
        "rationale": "3 * 7 = 21\nAnswer: B",
        "correct": "B",
    },
)
