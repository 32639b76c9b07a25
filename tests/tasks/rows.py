"""Rows of each task's data set, made up, in the Hub's schema and in that of the original files."""

from __future__ import annotations


AQUA_RAT = {
    "question": "A pen costs 3. What do 7 pens cost?",
    "options": ["A)10", "B)21", "C)24", "D)4", "E)None of these"],
    "rationale": "3 * 7 = 21\nAnswer: B",
    "correct": "B",
}
GSM8K = {"question": "Ann has 3 pens and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7 pens.\n#### 7"}
CHOICES = [("A", "river"), ("B", "desk"), ("C", "cloud"), ("D", "shoe"), ("E", "tree")]
COMMONSENSE_QA = {
    "id": "1",
    "question": "Where does a pen lie?",
    "question_concept": "pen",
    "choices": {"label": [label for label, _ in CHOICES], "text": [text for _, text in CHOICES]},
    "answerKey": "B",
}
COMMONSENSE_QA_FILE = {
    "id": "1",
    "answerKey": "B",
    "question": {
        "stem": "Where does a pen lie?",
        "question_concept": "pen",
        "choices": [{"label": label, "text": text} for label, text in CHOICES],
    },
}
PASSAGE = "On 5 May 1945 the Reds beat the Blues 3 to 1. Ann and Bob scored."
NO_DATE = {"day": "", "month": "", "year": ""}
DROP = {
    "section_id": "1",
    "query_id": "2",
    "passage": PASSAGE,
    "question": "Who scored?",
    "answers_spans": {"spans": ["Ann", "Bob"], "types": ["span", "span"]},
}
DROP_FILE = {
    "match_1": {
        "passage": PASSAGE,
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
DIALOGUE = "Ann: Have you my pen?\r\nBob: It is on the desk.\r\n"
SAMSUM = {"id": "1", "dialogue": DIALOGUE, "summary": "Ann's pen is on the desk."}
DIALOGSUM = {"id": "1", "dialogue": DIALOGUE, "summary": "Ann's pen is on the desk.", "topic": "pen"}
DIALOGSUM_TEST_FILE = {
    "fname": "test_0",
    "dialogue": DIALOGUE,
    "summary1": "Ann's pen is on the desk.",
    "summary2": "Bob knows where the pen is.",
    "summary3": "Ann looks for a pen.",
}
HUB_ROWS = {
    "aqua_rat": AQUA_RAT,
    "commonsense_qa": COMMONSENSE_QA,
    "dialogsum": DIALOGSUM,
    "drop": DROP,
    "gsm8k": GSM8K,
    "samsum": SAMSUM,
}
