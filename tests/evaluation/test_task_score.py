"""The metric task_score: greedy completions, each scored by the task of its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation.scoring import ScoringSettings, check_columns, score
from gradtx_hf.finetuning import DataSource, generate_completions, load_examples, load_language_model
from gradtx_hf.finetuning.task_data import score_completions
from gradtx_hf.playground import source_path
from tests.tasks import rows


SETTINGS = ScoringSettings("task_score", max_new_tokens=3, max_length=256, batch_size=2)


def test_the_score_is_the_mean_over_rows(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join(json.dumps({**rows.GSM8K, "question": question}) for question in ("abc", "defabc", "la")))
    examples = load_examples(DataSource(str(path), task="gsm8k"))
    model, tokenizer = load_language_model(str(source_path()))
    completions = generate_completions(model, tokenizer, examples["prompt"], max_new_tokens=3)
    # as spans, the first row is answered by what the model says and the others are not: a mean that is no constant
    said = examples.remove_columns(["references", "task"]).add_column("task", ["drop"] * 3)
    said = said.add_column("references", [[completions[0]], ["none"], ["none"]])
    assert score_completions(completions, said) == [1.0, 0.0, 0.0]
    scored = score(model, tokenizer, said, settings=SETTINGS)
    assert scored.score == pytest.approx(1 / 3)
    assert scored.example_scores == "100"
    assert scored.nats_per_token is not None
    assert scored.nats_per_token > 0


def test_data_without_a_task_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}))
    with pytest.raises(DataError, match="client 'mine' have no references, which task_score needs"):
        check_columns(load_examples(DataSource(str(path))), "task_score", task="mine")
