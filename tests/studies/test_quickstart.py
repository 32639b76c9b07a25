"""The main job, whole: at toy size in every run of the tests, at its own size in the slow ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gradtx_hf.errors import OutputExistsError
from gradtx_hf.evaluation import METHODS, Report
from gradtx_hf.playground import Rule, make_lines, target_path
from gradtx_hf.studies.quickstart import QuickstartSettings, run_quickstart


RECIPE = {"num_steps": 4, "batch_size": 4, "learning_rate": 5e-3, "max_length": 32}
TOY = QuickstartSettings(
    num_public_rules=3,
    runs_per_rule=2,
    num_target_runs=2,
    samples_per_set=8,
    num_snapshots=2,
    source_recipe=RECIPE,
    target_recipe=RECIPE,
    num_public_finetune_steps=4,
    num_training_steps=4,
    num_training_processes=1,
    num_seen_scored=2,
    num_unseen_scored=1,
    client_seeds=(1, 2),
    num_private_lines=16,
    num_test_lines=8,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    run_quickstart(folder, seed=3, num_workers=1, settings=TOY, command="the command")
    return folder


def test_it_leaves_what_the_contract_names(toy: Path) -> None:
    names = {path.name for path in toy.iterdir()}

    assert {
        "report.json",
        "report.md",
        "report.png",
        "translator",
        "client_adapter",
        "translated_adapter",
    } <= names


def test_the_report_has_every_control_of_every_client(toy: Path) -> None:
    report = json.loads((toy / "report.json").read_text())

    assert [client["seen"] for client in report["clients"]] == [True] * 4 + [False] * 2
    assert all(set(METHODS) <= set(client["scores"]) for client in report["clients"])
    assert report["command"] == "the command"
    assert {"curation", "training"} <= set(report["seconds"])


def test_the_adapters_beside_the_report_are_the_first_seen_clients(toy: Path) -> None:
    home = next(path for path in sorted((toy / "evaluation" / "clients").iterdir()) if path.name.startswith("000"))

    for mine, its in (("client_adapter", "source"), ("translated_adapter", "translated")):
        ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (toy / mine, home / its))
        assert all((ours[key] == theirs[key]).all() for key in theirs)


@pytest.mark.slow
def test_a_finished_quickstart_is_not_done_again(toy: Path) -> None:
    before = (toy / "translator" / "model.safetensors").stat().st_mtime_ns

    report = run_quickstart(toy, seed=3, num_workers=1, settings=TOY)

    assert (toy / "translator" / "model.safetensors").stat().st_mtime_ns == before
    assert [client.scores for client in report.clients] == [client.scores for client in Report.load(toy).clients]


def test_another_seed_does_not_write_into_it(toy: Path) -> None:
    with pytest.raises(OutputExistsError, match="another seed"):
        run_quickstart(toy, seed=4, num_workers=1, settings=TOY)


@pytest.mark.long
def test_at_its_own_size_it_carries_seen_and_unseen_rules_over(tmp_path: Path) -> None:
    report = run_quickstart(tmp_path / "out", seed=1)

    for group, least in (("seen", 0.8), ("unseen", 0.6)):
        means = {name: method.score.mean for name, method in report.summary[group].methods.items()}
        assert means["translated"] >= least * means["ceiling"]
        assert max(means[n] for n in ("shadow_mean", "shuffled_input", "target_untouched")) <= 0.1
    name, _, shift = report.clients[0].task.rpartition("+")
    rule = Rule(name, int(shift))
    lines = make_lines([rule], 20, seed="a new process")
    answers = _answers_of_stock_peft(tmp_path / "out" / "translated_adapter", [line["prompt"] for line in lines])
    share = sum(answer == line["completion"] for answer, line in zip(answers, lines, strict=True)) / len(lines)
    assert share == pytest.approx(report.clients[0].scores["translated"], abs=0.3)


def _answers_of_stock_peft(adapter: Path, prompts: list[str]) -> list[str]:
    """Load the adapter with PEFT alone, in a new process, and answer."""
    code = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
output = model.generate(**tokenizer(prompts, return_tensors="pt"), max_new_tokens=7, do_sample=False)
texts = tokenizer.batch_decode(output, skip_special_tokens=True)
print(json.dumps([text[len(prompt):] for text, prompt in zip(texts, prompts)]))
assert "gradtx_hf" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(target_path()), str(adapter), json.dumps(prompts)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    answers: list[str] = json.loads(printed.splitlines()[-1])
    return answers
