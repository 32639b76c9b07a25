"""Tasks as files of lm-evaluation-harness ask and score as we do."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from gradtx_hf.cli.main import main
from gradtx_hf.errors import ConfigurationError, DataError, OutputExistsError
from gradtx_hf.evaluation.lm_eval import export_tasks, task_documents
from gradtx_hf.finetuning import DataSource, generate_completions, load_examples, load_language_model
from gradtx_hf.finetuning.encoding import encode_prompts
from gradtx_hf.finetuning.task_data import score_completions, task_examples
from gradtx_hf.playground import source_path
from gradtx_hf.studies.pretrain_playground import build_tokenizer
from gradtx_hf.tasks import get_task, register_task, task_names
from gradtx_hf.tasks.gsm8k import GSM8K
from tests.tasks.rows import HUB_ROWS


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[a] {% endif %}"
)


def read_task(folder: Path, name: str) -> dict[str, Any]:
    """Read a task as lm-eval 0.4.13 does: functions from the file beside it, included keys below its own."""

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Callable[..., Any]:
        module, _, attribute = str(loader.construct_scalar(node)).rpartition(".")
        found: Callable[..., Any] = runpy.run_path(str(folder / f"{module}.py"))[attribute]
        return found

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", function)
    values: dict[str, Any] = yaml.load((folder / f"{name}.yaml").read_text(), Loader=Loader)
    included = values.pop("include", None)
    return {**(read_task(folder, included.removesuffix(".yaml")) if included else {}), **values}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tasks"
    assert export_tasks(path) == [f"gradtx_{name}{kind}" for name in task_names() for kind in ("", "_plain")]
    return path


@pytest.mark.parametrize("name", sorted(HUB_ROWS))
def test_prompts_are_those_of_our_evaluation_token_by_token(name: str, folder: Path) -> None:
    tokenizer = build_tokenizer()
    rows = Dataset.from_list([HUB_ROWS[name]] * 2)
    chats = task_examples(get_task(name), rows, label="rows")["prompt"]
    plain, chat = (read_task(folder, f"gradtx_{name}{kind}") for kind in ("_plain", ""))

    asked = [plain["doc_to_text"](document) for document in plain["process_docs"](rows)]
    assert [tokenizer(prompt)["input_ids"] for prompt in asked] == encode_prompts(tokenizer, chats)
    tokenizer.chat_template = TEMPLATE
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": document[chat["doc_to_text"]]}], tokenize=False, add_generation_prompt=True
        )
        for document in chat["process_docs"](rows)
    ]
    assert [tokenizer(prompt)["input_ids"] for prompt in asked] == encode_prompts(tokenizer, chats)
    assert chat["num_fewshot"] == 0
    assert chat["generation_kwargs"] == {
        "until": [],
        "do_sample": False,
        "max_gen_toks": get_task(name).max_new_tokens,
    }


@pytest.mark.parametrize("name", sorted(HUB_ROWS))
def test_scores_are_those_of_our_evaluation(name: str, folder: Path) -> None:
    rows = Dataset.from_list([HUB_ROWS[name]])
    values = read_task(folder, f"gradtx_{name}")
    (document,) = values["process_docs"](rows)
    (metric,) = values["metric_list"]
    completions = ["", "#### 7", "so (B) it is", "#### Bob; Ann", "Ann has a pen.", document[values["doc_to_target"]]]

    found = [values["process_results"](document, [completion]) for completion in completions]

    expected = score_completions(completions, Dataset.from_list([document] * len(completions)))
    assert found == [{metric["metric"]: score} for score in expected]
    assert expected[-1] == 1.0
    assert expected[0] == 0.0


def test_data_sets_are_those_of_the_tasks(folder: Path) -> None:
    for name in task_names():
        task, values = get_task(name), read_task(folder, f"gradtx_{name}")
        assert (values["dataset_path"], values.get("dataset_name")) == (task.data_set, task.config)
        assert values["test_split"] in task.splits
        assert values["test_split"] != "train"
        assert values["metric_list"] == [{"metric": task.score_name, "aggregation": "mean", "higher_is_better": True}]
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".yaml") == ["gradtx_tasks.py"]


def test_rows_without_an_answer_are_left_out_and_other_rows_refused() -> None:
    rows = [HUB_ROWS["commonsense_qa"], {**HUB_ROWS["commonsense_qa"], "answerKey": ""}]

    assert task_documents("commonsense_qa", rows)["references"] == [["B"]]
    with pytest.raises(DataError, match="data set of gsm8k does not hold rows of task gsm8k"):
        task_documents("gsm8k", rows)


def test_a_users_own_task_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtx_hf.tasks.registry._tasks", {})
    register_task(replace(GSM8K, name="own_task"))

    assert export_tasks(tmp_path / "new") == ["gradtx_own_task", "gradtx_own_task_plain"]
    assert read_task(tmp_path / "new", "gradtx_own_task_plain")["task"] == "gradtx_own_task_plain"


def test_unknown_tasks_and_used_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown task 'gms8k'"):
        export_tasks(tmp_path / "new", ["gsm8k", "gms8k"])
    with pytest.raises(OutputExistsError):
        export_tasks(folder)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_names_and_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["export-lm-eval", "drop", "gsm8k", "--output-dir", str(tmp_path / "new"), "--json"])

    done = capsys.readouterr()
    assert (status, json.loads(done.out)) == (
        0,
        ["gradtx_drop", "gradtx_drop_plain", "gradtx_gsm8k", "gradtx_gsm8k_plain"],
    )
    assert f"next: lm_eval --include_path {tmp_path / 'new'} --tasks gradtx --apply_chat_template" in done.err
    assert main(["export-lm-eval", "--output-dir", str(tmp_path / "new")]) == 1


@pytest.mark.slow
def test_lm_eval_itself_gets_our_completions_and_scores(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval[hf], which no extra brings")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = load_language_model(str(source_path()))
    rows = tmp_path / "rows.jsonl"
    texts = [json.dumps(HUB_ROWS["samsum"]).replace("desk", place) for place in ("desk", "bed", "feed", "cab")]
    rows.write_text("\n".join(texts))
    for file in folder.iterdir():  # the same tasks, with rows of this machine
        if file.is_file():
            text = re.sub(
                r"dataset_path: .*", f"dataset_path: json\ndataset_kwargs:\n  data_files: {rows}", file.read_text()
            )
            (tmp_path / file.name).write_text(re.sub(r"test_split: .*", "test_split: train", text))
    for template, name in ((None, "gradtx_samsum_plain"), (TEMPLATE, "gradtx_samsum")):
        tokenizer.chat_template = template
        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=1024),
            tasks=[name],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            apply_chat_template=template is not None,
            bootstrap_iters=0,
        )
        examples = load_examples(DataSource(str(rows), task="samsum"))
        completions = generate_completions(
            model, tokenizer, examples["prompt"], max_new_tokens=get_task("samsum").max_new_tokens
        )
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        assert [sample["filtered_resps"][0] for sample in samples] == completions
        scores = score_completions(completions, examples)
        assert found["results"][name]["rouge1,none"] == pytest.approx(sum(scores) / len(scores))
