"""All tasks by name: those of this package, and those of a user's own files."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.tasks.aqua_rat import AQUA_RAT
from gradtx_hf.tasks.commonsense_qa import COMMONSENSE_QA
from gradtx_hf.tasks.dialogsum import DIALOGSUM
from gradtx_hf.tasks.drop import DROP
from gradtx_hf.tasks.gsm8k import GSM8K
from gradtx_hf.tasks.samsum import SAMSUM
from gradtx_hf.tasks.task import Task


FILES_VARIABLE = "GRADTX_TASKS"
"""Environment variable with Python files that register tasks, separated as in PATH; child processes inherit it."""

_tasks = {task.name: task for task in (AQUA_RAT, COMMONSENSE_QA, DIALOGSUM, DROP, GSM8K, SAMSUM)}
_read_files: set[Path] = set()


def register_task(task: Task) -> None:
    """Make a task known by its name; the same name again takes the earlier one's place."""
    _tasks[task.name] = task


def get_task(name: str) -> Task:
    """Return a task.

    Raises:
        ConfigurationError: If there is none of that name.
        MissingFileError: If GRADTX_TASKS names a file that is not there.
    """
    _read_own_files()
    if name not in _tasks:
        raise ConfigurationError(
            f"got unknown task {name!r}, expected any of {', '.join(sorted(_tasks))}. An own task is registered by a "
            f"Python file named in {FILES_VARIABLE}."
        )
    return _tasks[name]


def task_names() -> list[str]:
    """Return the names of all tasks, sorted."""
    _read_own_files()
    return sorted(_tasks)


def _read_own_files() -> None:
    for entry in filter(None, os.environ.get(FILES_VARIABLE, "").split(os.pathsep)):
        path = Path(entry).expanduser().resolve()
        if path in _read_files:
            continue
        if not path.is_file():
            raise MissingFileError(f"{FILES_VARIABLE} names '{entry}', which is not there. Give Python files.")
        _read_files.add(path)
        runpy.run_path(str(path))
