"""DROP (Dua et al. 2019): a passage and a question; the answer is a number, a date, or spans of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradtx_hf.tasks.scoring import SEPARATOR, score_spans
from gradtx_hf.tasks.task import ANSWER_MARK, Task, TaskExample


def _examples(row: Mapping[str, Any]) -> list[TaskExample]:
    if "qa_pairs" not in row:  # the Hub: one question a row
        return _example(row["passage"], row["question"], [_join(row["answers_spans"]["spans"])])
    found: list[TaskExample] = []
    for pair in row["qa_pairs"]:
        answers = [pair["answer"], *pair.get("validated_answers", [])]
        found += _example(row["passage"], pair["question"], [_answer(answer) for answer in answers])
    return found


def _example(passage: str, question: str, answers: list[str]) -> list[TaskExample]:
    references = tuple(dict.fromkeys(answer for answer in answers if answer))
    if not references:
        return []
    prompt = f"{passage.strip()}\n{question.strip()}"
    return [TaskExample(prompt, f"{ANSWER_MARK} {references[0]}", references)]


def _answer(answer: Mapping[str, Any]) -> str:
    """Return one answer of the original files as text: its number, its spans, or its date as day, month, year."""
    if answer.get("number"):
        return str(answer["number"])
    if answer.get("spans"):
        return _join(answer["spans"])
    date = answer.get("date") or {}
    return " ".join(date[part] for part in ("day", "month", "year") if date.get(part))


def _join(spans: list[str]) -> str:
    return f"{SEPARATOR} ".join(dict.fromkeys(span.strip() for span in spans if span.strip()))


DROP = Task(
    name="drop",
    data_set="ucinlp/drop",
    splits=("train", "validation"),
    examples=_examples,
    score=score_spans,
    max_new_tokens=48,
    example_row={
        "section_id": "1",
        "query_id": "2",
        "passage": "On 5 May 1945 the Reds beat the Blues 3 to 1. Ann and Bob scored.",
        "question": "Who scored?",
        "answers_spans": {"spans": ["Ann", "Bob"], "types": ["span", "span"]},
    },
)
