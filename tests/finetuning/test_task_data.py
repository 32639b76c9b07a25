"""Data of a task: from any schema to chats, with and without a chat template, scored by the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import DataSource, load_examples
from gradtx_hf.finetuning.encoding import IGNORED, encode_prompts, tokenize_examples
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.finetuning.task_data import score_completions
from gradtx_hf.playground import source_path
from tests.tasks import rows


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def gsm8k_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps({**rows.GSM8K, "question": f"Question {i}?"}) for i in range(4)))
    return path


def test_examples_are_chats_with_references(gsm8k_file: Path) -> None:
    examples = load_examples(DataSource(str(gsm8k_file), task="gsm8k"))
    assert examples.column_names == ["prompt", "completion", "references", "task"]
    assert examples[1] == {
        "prompt": [{"role": "user", "content": "Question 1?"}],
        "completion": [{"role": "assistant", "content": "3 + 4 = 7 pens.\n#### 7"}],
        "references": ["7"],
        "task": "gsm8k",
    }


def test_a_split_is_a_slice_of_the_rows(gsm8k_file: Path) -> None:
    first = load_examples(DataSource(str(gsm8k_file), task="gsm8k", split="train[:50%]"))
    second = load_examples(DataSource(str(gsm8k_file), task="gsm8k", split="train[50%:]"))
    questions = [example["prompt"][0]["content"] for examples in (first, second) for example in examples]
    assert questions == [f"Question {i}?" for i in range(4)]
    assert len(first) == len(second) == 2


def test_an_object_of_rows_by_id_is_read(tmp_path: Path) -> None:
    path = tmp_path / "drop.json"
    path.write_text(json.dumps(rows.DROP_FILE))
    assert len(load_examples(DataSource(str(path), task="drop"))) == 3


def test_a_configuration_needs_the_task_only() -> None:
    source = DataSource.from_dict({"task": "gsm8k", "split": "test"})
    assert (source.path, source.name, source.split) == ("openai/gsm8k", "main", "test")
    assert DataSource.from_dict(source.to_dict()) == source


def test_with_a_chat_template_the_template_is_used(gsm8k_file: Path) -> None:
    examples = load_examples(DataSource(str(gsm8k_file), task="gsm8k"))
    tokenizer = load_tokenizer(str(source_path()))
    tokenizer.chat_template = TEMPLATE
    (row, *_) = tokenize_examples(examples, tokenizer, max_length=512)
    (prompt, *_) = encode_prompts(tokenizer, examples["prompt"])
    learned = [token for token in row["labels"] if token != IGNORED]
    whole = "<user>Question 0?<assistant>3 + 4 = 7 pens.\n#### 7"
    assert row["input_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert row["input_ids"] == prompt + learned


def test_without_a_chat_template_the_contents_are_joined(gsm8k_file: Path) -> None:
    examples = load_examples(DataSource(str(gsm8k_file), task="gsm8k"))
    tokenizer = load_tokenizer(str(source_path()))
    assert not tokenizer.chat_template
    plain = tokenize_examples(
        examples.select(range(1))
        .remove_columns(["prompt", "completion"])
        .add_column("prompt", ["Question 0?\n"])
        .add_column("completion", ["3 + 4 = 7 pens.\n#### 7"]),
        tokenizer,
        max_length=512,
    )
    assert tokenize_examples(examples, tokenizer, max_length=512)[0] == plain[0]
    assert encode_prompts(tokenizer, examples["prompt"])[0] == encode_prompts(tokenizer, ["Question 0?\n"])[0]


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_too_long_an_example_loses_the_beginning_of_its_prompt(gsm8k_file: Path, template: str | None) -> None:
    examples = load_examples(DataSource(str(gsm8k_file), task="gsm8k"))
    tokenizer = load_tokenizer(str(source_path()))
    tokenizer.chat_template = template
    whole = tokenize_examples(examples, tokenizer, max_length=512)[0]
    cut = tokenize_examples(examples, tokenizer, max_length=len(whole["input_ids"]) - 3)[0]
    assert cut["input_ids"] == whole["input_ids"][3:]
    assert cut["labels"] == whole["labels"][3:]


def test_own_chats_of_prompt_and_completion_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    row = {"prompt": [{"role": "user", "content": "2?"}], "completion": [{"role": "assistant", "content": "4"}]}
    path.write_text(json.dumps(row))
    assert load_examples(DataSource(str(path)))[0] == row
    path.write_text(json.dumps({**row, "prompt": [{"speaker": "user"}]}))
    with pytest.raises(DataError, match=r"column 'prompt' .* holds no chats"):
        load_examples(DataSource(str(path)))


def test_each_completion_is_scored_by_its_rows_task(tmp_path: Path, gsm8k_file: Path) -> None:
    samsum = tmp_path / "samsum.json"
    samsum.write_text(json.dumps([rows.SAMSUM]))
    numbers = load_examples(DataSource(str(gsm8k_file), task="gsm8k"))
    summaries = load_examples(DataSource(str(samsum), task="samsum"))
    assert score_completions(["#### 7", "#### 8", "it is 7.0", ""], numbers) == [1.0, 0.0, 1.0, 0.0]
    assert score_completions(["The pen is on the desk"], summaries)[0] == pytest.approx(2 * 5 / (6 + 7))
    with pytest.raises(DataError, match="got 1 completions for 4 examples"):
        score_completions(["7"], numbers)


def test_rows_of_another_data_set_are_refused_without_their_text(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"text": "a secret"}))
    with pytest.raises(DataError, match=r"task gsm8k: row 0 has text .* Give the files of openai/gsm8k") as caught:
        load_examples(DataSource(str(path), task="gsm8k"))
    assert "secret" not in str(caught.value)


def test_a_split_without_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({**rows.COMMONSENSE_QA_FILE, "answerKey": ""}))
    with pytest.raises(DataError, match=r"no row with an answer .* in train, validation"):
        load_examples(DataSource(str(path), task="commonsense_qa"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "gsm9k"}, "unknown task 'gsm9k'"),
        ({"task": "gsm8k", "text_column": "question"}, "names the task gsm8k and text_column"),
        ({"task": "gsm8k", "chunk_characters": 9}, "names the task gsm8k and chunk_characters"),
        ({"task": 3}, "got task=3 for a data source, expected text"),
    ],
)
def test_a_task_beside_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DataSource.from_dict({"path": "x.jsonl", **values})


def test_a_slice_that_is_none_is_refused(gsm8k_file: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_examples(DataSource(str(gsm8k_file), task="gsm8k", split="test[:50%]"))
