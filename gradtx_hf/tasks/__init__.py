"""Tasks of real text: how a data set's rows become prompts and completions, and how an answer is scored."""

from gradtx_hf.tasks.registry import get_task, register_task, task_names
from gradtx_hf.tasks.task import Task, TaskExample


__all__ = ["Task", "TaskExample", "get_task", "register_task", "task_names"]
