"""Every command does its one thing: data on stdout, notes on stderr, files where they were asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

import gradtx_hf.cli.inspect
from gradtx_hf.cli.main import COMMANDS
from gradtx_hf.lora import load_adapter
from gradtx_hf.updates.store import UpdateStore
from tests.cli.conftest import Finished
from tests.cli.story import RECIPE, TRAINING, UNSEEN, story
from tests.curation.world import RULES


Run = Callable[..., Finished]


def in_new_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradtx_hf.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def write_yaml(path: Path, values: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_curate_writes_a_store_from_a_configuration(gradtx: Run, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "curate.yaml", story().curation | {"num_shadow_sets": 1})

    done = gradtx("curate", "--config", config, "--output-dir", tmp_path / "store")
    again = gradtx("curate", "--config", config, "--output-dir", tmp_path / "store", "--json")

    assert done.status == 0
    assert done.out == f"store: {tmp_path / 'store'}\nshadow sets: 1\ntarget runs: 1\npairs: 2\n"
    assert json.loads(again.out) == {
        "store": str(tmp_path / "store"),
        "shadow_sets": 1,
        "target_runs": 1,
        "pairs": 2,
    }
    assert f"next: gradtx train --store {tmp_path / 'store'}" in done.err
    UpdateStore.open(tmp_path / "store").verify()


@pytest.mark.parametrize(
    ("objective", "shown"),
    [("functional", ["loss", "untouched_loss"]), ("parameter", ["relative_error", "generated_relative_error"])],
)
def test_train_writes_a_translator_from_flags(gradtx: Run, objective: str, shown: list[str], tmp_path: Path) -> None:
    flags = [part for name, value in TRAINING.items() for part in (f"--{name}", value)] + ["--objective", objective]

    done = gradtx("train", "--store", story().store, "--output-dir", tmp_path / "translator", *flags)
    as_json = gradtx("train", "--store", story().store, "--output-dir", tmp_path / "json", *flags, "--json")

    assert done.status == 0
    recorded = json.loads((tmp_path / "translator" / "training.json").read_text())["parts"]["whole"]["metrics"]
    errors = ", ".join(f"{name} {recorded[f'eval_{name}']:.4g}" for name in shown)
    assert done.out.splitlines() == [f"translator: {tmp_path / 'translator'}", f"validation of whole: {errors}"]
    printed = json.loads(as_json.out)
    assert printed["translator"] == str(tmp_path / "json")
    assert 0.5 < printed["start_distance_limit"] < 1
    assert printed["validation"]["whole"][f"eval_{shown[0]}"] == recorded[f"eval_{shown[0]}"]
    assert "training" in done.err  # the bar


def test_client_writes_an_adapter(gradtx: Run, tmp_path: Path) -> None:
    config = write_yaml(
        tmp_path / "client.yaml",
        {"init": str(story().translator / "source_init"), "data": {"path": story().data(UNSEEN)}, "recipe": RECIPE},
    )

    done = gradtx("client", "--config", config, "--output-dir", tmp_path / "mine", "--seed", 3)
    as_json = gradtx("client", "--config", config, "--output-dir", tmp_path / "json", "--seed", 3, "--json")

    assert done.status == 0
    printed = json.loads(as_json.out)
    assert (printed["adapter"], printed["num_steps"]) == (str(tmp_path / "json"), 4)
    assert done.out == f"adapter: {tmp_path / 'mine'}\nsteps: 4\nloss: {printed['final_loss']:.4g}\n"
    assert f"next: gradtx inspect {tmp_path / 'mine'}" in done.err
    assert load_adapter(tmp_path / "mine").layout == load_adapter(story().client).layout


def test_translate_writes_an_adapter_and_prints_its_folder(gradtx: Run, tmp_path: Path) -> None:
    done = gradtx("translate", story().client, "--translator", story().translator, "--output-dir", tmp_path / "out")

    assert (done.status, done.out) == (0, f"{tmp_path / 'out'}\n")
    assert f"{story().client}: distance to the translator's start 0." in done.err
    assert "load it with: PeftModel.from_pretrained(model, " in done.err
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(story().folder / "target"), tmp_path / "out")


def test_translate_takes_a_number_format(gradtx: Run, tmp_path: Path) -> None:
    updates = []
    for dtype in ("auto", "float32", "bfloat16"):
        done = gradtx(
            *("translate", story().client, "--translator", story().translator, "--output-dir", tmp_path / dtype),
            *("--dtype", dtype),
        )
        assert done.status == 0
        updates.append(torch.cat([tensor.flatten() for tensor in load_adapter(tmp_path / dtype).tensors.values()]))

    assert torch.equal(updates[0], updates[1])
    assert 0 < (updates[2] - updates[1]).norm() / updates[1].norm() < 0.01


def test_translate_aggregates_and_prints_its_report(gradtx: Run, tmp_path: Path) -> None:
    start = story().translator / "source_init"

    done = gradtx(
        *("translate", story().client, start, "--translator", story().translator, "--output-dir", tmp_path / "out"),
        *("--aggregation", "sum", "--weights", "0.5,1e-1", "--json"),
    )

    report = json.loads(done.out)
    assert report["aggregation"] == "sum"
    assert [entry["weight"] for entry in report["adapters"]] == [0.5, 0.1]
    assert report == json.loads((tmp_path / "out" / "translation.json").read_text())


def test_evaluate_writes_a_report(gradtx: Run, tmp_path: Path) -> None:
    clients = [
        {
            "task": rule.name,
            "train": {"path": story().data(rule), "split": "train[:16]"},
            "test": {"path": story().data(rule), "split": "train[16:]"},
        }
        for rule in RULES
    ]
    config = write_yaml(
        tmp_path / "evaluate.yaml", {"translator": str(story().translator), "store": str(story().store)}
    )

    flags = ["--config", config, "--max-new-tokens", 7, "--clients", json.dumps(clients)]

    done = gradtx("evaluate", *flags, "--output-dir", tmp_path / "out")
    as_json = gradtx("evaluate", *flags, "--output-dir", tmp_path / "json", "--json")

    assert done.status == 0
    assert done.out.rstrip() == (tmp_path / "out" / "report.md").read_text().rstrip()
    assert json.loads(as_json.out) == json.loads((tmp_path / "json" / "report.json").read_text())
    assert json.loads(as_json.out)["summary"]["all"]["num_clients"] == 2
    assert f"wrote {tmp_path / 'out'}/report.md" in done.err
    assert "gradtx evaluate --config" in (tmp_path / "out" / "report.md").read_text()


def test_inspect_lists_what_would_leave_the_client(gradtx: Run) -> None:
    done = gradtx("inspect", story().client, "--json")

    described = json.loads(done.out)
    adapter = load_adapter(story().client)
    assert (described["kind"], described["rank"], described["base_model"]) == (
        "adapter",
        2,
        story().curation["source_model"],
    )
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in described["tensors"]} == {
        name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()
    }
    assert described["bytes"] == sum(tensor["bytes"] for tensor in described["tensors"]) == adapter.num_bytes
    assert described["layout"]["fingerprint"] == adapter.layout.fingerprint
    assert set(described["files"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert done.err == ""


def test_inspect_of_an_adapter_is_readable(gradtx: Run) -> None:
    lines = gradtx("inspect", story().client).out.splitlines()

    assert lines[0] == "kind: adapter"
    assert any("model.layers.0.self_attn.q_proj.lora_A" in line and "[2, 8]" in line for line in lines)
    assert any(line.startswith("  adapter_model.safetensors  ") for line in lines)


def test_inspect_shows_both_sides_of_a_translator(gradtx: Run) -> None:
    described = json.loads(gradtx("inspect", story().translator, "--json").out)

    assert (described["kind"], described["name"]) == ("translator", str(story().translator))
    assert (described["source"]["num_blocks"], described["target"]["num_blocks"]) == (2, 3)
    assert described["models"]["whole update"]["parameters"] > 1000
    assert "training.json" in described["files"]
    assert "kind: translator" in gradtx("inspect", story().translator).out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(gradtx: Run, command: str) -> None:
    done = gradtx(command, "--help")

    assert done.status == 0
    assert f"usage: gradtx {command}" in done.out
    assert done.err == ""


def test_help_lists_every_command(gradtx: Run) -> None:
    done = gradtx("--help")

    assert done.status == 0
    assert all(f"  {command}  " in done.out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [[], ["transalte"], ["translate"], ["translate", "adapter", "--translator"], ["inspect", "a", "b"], ["train", "x"]],
)
def test_wrong_usage_ends_with_2(gradtx: Run, arguments: list[str]) -> None:
    done = gradtx(*arguments)

    assert (done.status, done.out) == (2, "")
    assert "usage: gradtx" in done.err


@pytest.mark.slow
def test_help_of_a_new_process_imports_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from gradtx_hf.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    print([name for name in ('trl', 'datasets', 'ray', 'gradio') if name in sys.modules], file=sys.stderr)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.slow
def test_a_refusal_in_a_new_process_is_one_line_and_ends_with_1(tmp_path: Path) -> None:
    done = in_new_process("inspect", tmp_path / "nothing" / "here", GRADTX_DEBUG="0")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_debugging_shows_the_traceback_before_the_line(
    gradtx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADTX_DEBUG", "1")

    done = gradtx("inspect", tmp_path / "nothing" / "here")

    assert done.status == 1
    assert done.err.startswith("Traceback")
    assert done.err.splitlines()[-1].startswith("error: ")


def fail_with(error: BaseException) -> Callable[[list[str]], int]:
    def run(argv: list[str]) -> int:
        raise error

    return run


def test_an_interruption_is_one_line_that_says_how_to_go_on(gradtx: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradtx_hf.cli.inspect, "run", fail_with(KeyboardInterrupt()))

    assert gradtx("inspect", "x").error.startswith("interrupted. Run the same command again to go on")


def wait_for_end_of_group(group: int, *, seconds: float = 10) -> bool:
    """Return whether a process group soon has no living process; those that nobody reaped do not live."""
    for _ in range(int(seconds / 0.1)):
        states = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in states.splitlines()]
        if not any(pgid == str(group) and not state.startswith("Z") for pgid, state in rows):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_ctrl_c_in_a_curation_ends_every_worker_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = write_yaml(
        tmp_path / "curate.yaml",
        story().curation | {"source_recipe": RECIPE | {"num_steps": 1000, "learning_rate": 1e-4}, "num_workers": 2},
    )
    command = ["curate", "--config", config, "--output-dir", tmp_path / "store"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gradtx_hf.cli.main", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "store").glob("shards/*")):
        time.sleep(0.1)

    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: interrupted. Run the same command again to go on")
    assert wait_for_end_of_group(process.pid)
    assert in_new_process(*command).returncode == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("first\nsecond"), "RuntimeError: first (GRADTX_DEBUG=1 shows the traceback)"),
        (RuntimeError(), "RuntimeError: no message (GRADTX_DEBUG=1 shows the traceback)"),
    ],
)
def test_an_unforeseen_error_is_one_line_too(
    gradtx: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    monkeypatch.setattr(gradtx_hf.cli.inspect, "run", fail_with(error))

    assert gradtx("inspect", "x").error == line


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error() -> None:
    command = f"{sys.executable} -m gradtx_hf.cli.main inspect {story().client} | true"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert done.stderr == ""
