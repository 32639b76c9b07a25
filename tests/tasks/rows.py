"""Rows of each task's data set, made up: in the Hub's schema, as the tasks have them, and as in the original files."""

from __future__ import annotations

from typing import Any

from gradtx_hf.tasks import get_task, task_names


HUB_ROWS: dict[str, Any] = {name: get_task(name).example_row for name in task_names()}
AQUA_RAT, COMMONSENSE_QA, DIALOGSUM, DROP, GSM8K, SAMSUM = (HUB_ROWS[name] for name in sorted(HUB_ROWS))
CHOICES = [("A", "river"), ("B", "desk"), ("C", "cloud"), ("D", "shoe"), ("E", "tree")]
COMMONSENSE_QA_FILE = {
    "id": "1",
    "answerKey": "B",
    "question": {
        "stem": "Where does a pen lie?",
        "question_concept": "pen",
        "choices": [{"label": label, "text": text} for label, text in CHOICES],
    },
}
NO_DATE = {"day": "", "month": "", "year": ""}
DROP_FILE = {
    "match_1": {
        "passage": DROP["passage"],
        "wiki_url": "",
        "qa_pairs": [
            {
                "question": "Who scored?",
                "answer": {"number": "", "date": NO_DATE, "spans": ["Ann", "Bob"]},
                "validated_answers": [{"number": "", "date": NO_DATE, "spans": ["Bob"]}],
            },
            {"question": "How many goals?", "answer": {"number": "4", "date": NO_DATE, "spans": []}},
            {
                "question": "When?",
                "answer": {"number": "", "date": {"day": "5", "month": "May", "year": "1945"}, "spans": []},
            },
            {"question": "Why?", "answer": {"number": "", "date": NO_DATE, "spans": []}},
        ],
    }
}
DIALOGSUM_TEST_FILE = {
    "fname": "test_0",
    "dialogue": DIALOGSUM["dialogue"],
    "summary1": "Ann's pen is on the desk.",
    "summary2": "Bob knows where the pen is.",
    "summary3": "Ann looks for a pen.",
}
