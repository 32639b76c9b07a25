"""Tasks as YAML of lm-evaluation-harness, which then asks the same prompts and takes the same scores as we do.

For each task there are two: ``gradtx_NAME`` for models with a chat template (``lm_eval --apply_chat_template``), and
``gradtx_NAME_plain`` for those without one, whose prompts end with a line's end as in fine-tuning. Prompts, references
and scores come from ``gradtx_hf.tasks`` itself, through a Python file beside the YAML. Written for and tried with
lm-eval 0.4.13. Greedy, no examples before the question, no stop words: a completion ends as the model ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from gradtx_hf.evaluation.report import library_versions
from gradtx_hf.finetuning.task_data import task_examples
from gradtx_hf.output import new_folder, require_new_folder
from gradtx_hf.tasks import Task, get_task, task_names


MODULE = "gradtx_tasks"
TAG = "gradtx"
HEADER = '''"""What the YAML files beside it call; gradtx-hf must be installed where lm_eval runs."""

from gradtx_hf.evaluation.lm_eval import plain_prompt, score_document, task_documents
'''
FUNCTION = """

def {name}_documents(dataset):
    return task_documents("{name}", dataset)
"""


def export_tasks(output_dir: Path | str, names: Sequence[str] = ()) -> list[str]:
    """Write tasks for lm-evaluation-harness into a new folder, for its ``--include_path``.

    Args:
        output_dir: The folder.
        names: Which tasks; all of them by default.

    Returns:
        The names that ``lm_eval --tasks`` knows them by.

    Raises:
        ConfigurationError: If there is no such task.
        OutputExistsError: If the folder holds something.
    """
    tasks = [get_task(name) for name in dict.fromkeys(names or task_names())]
    folder = require_new_folder(output_dir)
    written = []
    with new_folder(folder) as temporary:
        code = HEADER + "".join(FUNCTION.format(name=task.name) for task in tasks)
        (temporary / f"{MODULE}.py").write_text(code, encoding="utf-8")
        for task in tasks:
            for values in (_chat_task(task), _plain_task(task)):
                text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
                (temporary / f"{values['task']}.yaml").write_text(text, encoding="utf-8")
                written.append(values["task"])
    return written


def task_documents(name: str, rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """Return a task's questions of a split's raw rows, as ``process_docs`` of lm-eval does.

    Returns:
        Columns ``prompt``, ``completion``, ``references`` and ``task``; rows without an answer are left out.

    Raises:
        DataError: If the rows are of another data set.
    """
    examples = task_examples(get_task(name), rows, label=f"the data set of {name}")
    columns: dict[str, list[Any]] = {key: list(examples[key]) for key in ("references", "task")}
    for key in ("prompt", "completion"):
        columns[key] = [chat[0]["content"] for chat in examples[key]]
    return Dataset.from_dict(columns)


def plain_prompt(document: Mapping[str, Any]) -> str:
    """Return the prompt for a model without a chat template, as ``encode_prompts`` has it."""
    return f"{document['prompt']}\n"


def score_document(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score the completion of one question, as ``process_results`` of lm-eval does."""
    task = get_task(document["task"])
    return {task.score_name: task.score(results[0], document["references"])}


class _Function(str):
    """A function's name, which lm-eval reads with the tag ``!function``."""


class _Dumper(yaml.SafeDumper):
    """Writes names of functions with their tag."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def _chat_task(task: Task) -> dict[str, Any]:
    return {
        "task": f"{TAG}_{task.name}",
        "tag": [TAG],
        "dataset_path": task.data_set,
        **({} if task.config is None else {"dataset_name": task.config}),
        "test_split": task.splits[-1],
        "process_docs": _Function(f"{MODULE}.{task.name}_documents"),
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": "completion",
        "process_results": _Function(f"{MODULE}.score_document"),
        "metric_list": [{"metric": task.score_name, "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": task.max_new_tokens},
        "metadata": {"version": 1.0, "gradtx-hf": library_versions().get("gradtx-hf", "unknown")},
    }


def _plain_task(task: Task) -> dict[str, Any]:
    chat = _chat_task(task)
    return {
        "include": f"{chat['task']}.yaml",
        "task": f"{chat['task']}_plain",
        "tag": [f"{TAG}_plain"],
        "doc_to_text": _Function(f"{MODULE}.plain_prompt"),
    }
