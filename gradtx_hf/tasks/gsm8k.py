"""GSM8K (Cobbe et al. 2021): problems of school mathematics, answered by steps and a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gradtx_hf.tasks.scoring import score_number
from gradtx_hf.tasks.task import ANSWER_MARK, Task, TaskExample


CALCULATION = re.compile(r"<<[^>]*>>")
"""The data's notes for a calculator, which no model here has."""


def _examples(row: Mapping[str, Any]) -> list[TaskExample]:
    reasoning, _, answer = CALCULATION.sub("", row["answer"]).rpartition(ANSWER_MARK)
    completion = f"{reasoning.strip()}\n{ANSWER_MARK} {answer.strip()}"
    return [TaskExample(row["question"].strip(), completion, (answer.strip(),))]


GSM8K = Task(
    name="gsm8k",
    data_set="openai/gsm8k",
    config="main",
    splits=("train", "test"),
    examples=_examples,
    score=score_number,
    max_new_tokens=320,
    example_row={"question": "Ann has 3 pens and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7 pens.\n#### 7"},
)
