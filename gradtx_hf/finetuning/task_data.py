"""A task's examples as a data set: prompts and completions as chats, with what their answers are scored against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset, Features, List, Value

from gradtx_hf.errors import DataError
from gradtx_hf.tasks import Task, get_task


CHAT = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features({"prompt": CHAT, "completion": CHAT, "references": List(Value("string")), "task": Value("string")})


def task_examples(task: Task, rows: Iterable[Mapping[str, Any]], *, label: str) -> Dataset:
    """Turn raw rows into a task's examples.

    Args:
        task: The task.
        rows: Rows of the Hub's schema or of the original files; those without an answer are left out.
        label: What the rows are called in an error.

    Returns:
        Columns ``prompt`` and ``completion``, each a chat of one message as TRL has them, ``references`` and ``task``.

    Raises:
        DataError: If a row is of another data set, or no row has an answer.
    """
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for number, row in enumerate(rows):
        try:
            found = task.examples(row)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{label} does not hold rows of task {task.name}: row {number} has {', '.join(map(str, row))} "
                f"({type(error).__name__}: {error}). Give the files of {task.data_set}."
            ) from error
        for example in found:
            columns["prompt"].append([{"role": "user", "content": example.prompt}])
            columns["completion"].append([{"role": "assistant", "content": example.completion}])
            columns["references"].append(list(example.references))
            columns["task"].append(task.name)
    if not columns["task"]:
        raise DataError(
            f"{label} has no row with an answer for task {task.name}; {task.data_set} has answers in "
            f"{', '.join(task.splits)}. Name one of these splits."
        )
    return Dataset.from_dict(columns, features=FEATURES)


def score_completions(completions: Sequence[str], examples: Dataset) -> list[float]:
    """Score completions, each by its row's task.

    Args:
        completions: One for each row, in their order.
        examples: Rows with ``references`` and ``task``.

    Returns:
        Scores in [0, 1].

    Raises:
        DataError: If the numbers differ.
    """
    if len(completions) != len(examples):
        raise DataError(f"got {len(completions)} completions for {len(examples)} examples.")
    rows = zip(completions, examples["references"], examples["task"], strict=True)
    return [get_task(task).score(completion, references) for completion, references, task in rows]
