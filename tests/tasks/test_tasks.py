"""Tasks: prompts and completions of every schema, and a user's own task."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.tasks import Task, get_task, register_task, registry, task_names
from gradtx_hf.tasks.scoring import score_choice
from tests.tasks import rows


OWN_TASK = """
from gradtx_hf.tasks import Task, TaskExample, register_task

register_task(
    Task(
        name="capitals",
        data_set="someone/capitals",
        splits=("train",),
        examples=lambda row: [TaskExample(row["country"], row["capital"], (row["capital"],))],
        score=lambda completion, references: float(completion.strip() in references),
    )
)
"""


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    monkeypatch.setattr(registry, "_read_files", set())


def test_every_task_of_the_paper_is_there() -> None:
    assert task_names() == ["aqua_rat", "commonsense_qa", "dialogsum", "drop", "gsm8k", "samsum"]
    assert all(get_task(name).name == name for name in task_names())


@pytest.mark.parametrize("name", sorted(rows.HUB_ROWS))
def test_a_completion_is_right_by_its_own_task(name: str) -> None:
    task = get_task(name)
    (example,) = task.examples(rows.HUB_ROWS[name])
    assert task.score(example.completion, example.references) == 1.0
    assert task.score("", example.references) == 0.0
    assert example.completion not in example.prompt


def test_reasoning_comes_before_the_answer() -> None:
    (aqua,) = get_task("aqua_rat").examples(rows.AQUA_RAT)
    assert aqua.completion == "3 * 7 = 21\nAnswer: B\n#### B"
    assert aqua.prompt.splitlines()[:3] == ["A pen costs 3. What do 7 pens cost?", "(A) 10", "(B) 21"]
    (gsm8k,) = get_task("gsm8k").examples(rows.GSM8K)
    assert gsm8k.completion == "3 + 4 = 7 pens.\n#### 7"


def test_the_original_files_give_the_same_as_the_hub() -> None:
    task = get_task("commonsense_qa")
    assert task.examples(rows.COMMONSENSE_QA_FILE) == task.examples(rows.COMMONSENSE_QA)
    task = get_task("dialogsum")
    (three,) = task.examples(rows.DIALOGSUM_TEST_FILE)
    (one,) = task.examples(rows.DIALOGSUM)
    assert (three.prompt, three.completion, three.references[:1]) == (one.prompt, one.completion, one.references)
    assert len(three.references) == 3


def test_drop_has_spans_numbers_and_dates() -> None:
    found = get_task("drop").examples(rows.DROP_FILE["match_1"])
    assert [example.references for example in found] == [("Ann; Bob", "Bob"), ("4",), ("5 May 1945",)]
    assert found[0].prompt == get_task("drop").examples(rows.DROP)[0].prompt
    assert found[2].completion == "#### 5 May 1945"


def test_rows_without_an_answer_give_no_example() -> None:
    assert get_task("commonsense_qa").examples({**rows.COMMONSENSE_QA, "answerKey": ""}) == []
    assert get_task("samsum").examples({**rows.SAMSUM, "dialogue": ""}) == []


@pytest.mark.usefixtures("own_registry")
def test_an_own_task_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my_tasks.py"
    path.write_text(OWN_TASK)
    monkeypatch.setenv(registry.FILES_VARIABLE, str(path))
    task = get_task("capitals")
    (example,) = task.examples({"country": "Peru", "capital": "Lima"})
    assert task.score(" Lima\n", example.references) == 1.0
    assert "capitals" in task_names()


@pytest.mark.usefixtures("own_registry")
def test_a_file_of_own_tasks_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.FILES_VARIABLE, "/nowhere/tasks.py")
    with pytest.raises(MissingFileError, match=r"GRADTX_TASKS names '/nowhere/tasks.py'"):
        get_task("gsm8k")


@pytest.mark.usefixtures("own_registry")
def test_a_registered_task_takes_the_place_of_its_namesake() -> None:
    mine = Task(name="gsm8k", data_set="me/mine", splits=("train",), examples=lambda row: [], score=score_choice)
    register_task(mine)
    assert get_task("gsm8k") is mine


def test_unknown_and_ill_named_tasks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="unknown task 'gsm9k', expected any of aqua_rat"):
        get_task("gsm9k")
    with pytest.raises(ConfigurationError, match="small letters"):
        Task(name="My Task", data_set="x", splits=("train",), examples=lambda row: [], score=score_choice)
