"""Training in several processes: each draws for itself, all train one translator, and one writes it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import TrainerControl, TrainerState

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.training.base import ProcessSeed, has_idle_parameters
from gradtx_hf.training.launched import require_all_processes
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import BlockLayout
from tests.cli.story import TRAINING, story
from tests.model.blocks import make_layout


def launch(config: Path, output_dir: Path) -> subprocess.CompletedProcess[str]:
    """Train as a provider would, in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "gradtx_hf.cli.main", "train", "--config", str(config), "--output_dir", str(output_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def accelerate(config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Train by ``accelerate launch``, asking for two processes."""
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", *flags, "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "gradtx_hf.cli.main", "train", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["functional", pytest.param("parameter", marks=pytest.mark.long)])
def test_accelerate_in_two_processes_has_the_losses_of_one(objective: str, tmp_path: Path) -> None:
    # without noise and with one line in a shadow set, nothing of a global batch is drawn at random but its order
    store = tmp_path / "store"
    curate(CurationArguments(**story().curation | {"num_shadow_sets": 6, "samples_per_set": 1}, output_dir=str(store)))
    options = {"input_noise": 0.0, "dropout_rate": 0.0, "logging_steps": 1, "objective": objective}
    values = TRAINING | options | {"store": str(store), "disable_tqdm": True, "max_steps": 6}
    one, two = (values | {"output_dir": str(tmp_path / name)} for name in ("one", "two"))  # batches of 4 in one
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(two | {"per_device_train_batch_size": 2}))

    train(TranslatorArguments(**one))
    done = accelerate(config, "--multi_gpu")

    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two")]
    assert [record["num_processes"] for record in records] == [1, 2]
    expected, got = (losses(record["parts"]["whole"]["history"]) for record in records)
    assert len([name for _, name in expected if name == "loss"]) == 6
    assert min(expected.values()) > 0.1
    assert got == pytest.approx(expected, rel=1e-5)


def losses(history: list[dict[str, float]]) -> dict[tuple[float, str], float]:
    """Return every training and validation loss of a log, by step and name."""
    return {(line["step"], name): value for line in history for name, value in line.items() if name.endswith("loss")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "use_cpu", "message"),
    [(["--cpu"], True, "started one, as it does with --cpu"), (["--multi_gpu"], False, "no GPU was found")],
)
def test_launch_that_falls_apart_is_refused(flags: list[str], use_cpu: bool, message: str, tmp_path: Path) -> None:
    if not use_cpu and torch.cuda.is_available():
        pytest.skip("with a GPU these processes find each other")
    config = tmp_path / "train.yaml"
    values = TRAINING | {"store": str(story().store), "output_dir": str(tmp_path / "translator"), "use_cpu": use_cpu}
    config.write_text(yaml.safe_dump(values))

    done = accelerate(config, *flags)

    assert done.returncode == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.yaml"]


@pytest.mark.parametrize(
    ("environment", "num_processes", "message"),
    [
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, 1, "started 2 processes, but each would train alone"),
        ({"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, 1, "asked for several processes"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, 2, None),
        ({"WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, 1, None),
        ({"MASTER_ADDR": "127.0.0.1"}, 1, None),
        ({}, 1, None),
    ],
)
def test_fewer_processes_than_were_launched_are_refused(
    environment: dict[str, str], num_processes: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    if message is None:
        require_all_processes(num_processes)
    else:
        with pytest.raises(ConfigurationError, match=message):
            require_all_processes(num_processes)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["functional", pytest.param("parameter", marks=pytest.mark.long)])
def test_two_processes_train_one_translator(objective: str, tmp_path: Path) -> None:
    # 4 updates to train on, 2 epochs of batches of 1 in each of 2 processes
    options = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 1, "objective": objective}
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(TRAINING | options | {"store": str(story().store)}))

    done = launch(config, tmp_path / "translator")

    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["translator", "validation of whole"]
    assert done.stderr.count("training on 4 updates") == 1
    assert "Warning" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.yaml", "translator"]
    record = json.loads((tmp_path / "translator" / "training.json").read_text())
    part = record["parts"]["whole"]
    assert (record["num_processes"], part["num_steps"]) == (2, 4)
    assert math.isfinite(part["train_loss"])
    assert math.isfinite(part["metrics"]["eval_loss"])
    translator = PeftTranslator.from_pretrained(tmp_path / "translator")
    assert set(translator.translate(story().client).tensors) == set(translator.target_init.tensors)


@pytest.mark.slow
def test_what_one_process_refuses_all_refuse_and_nothing_is_left(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(TRAINING | {"store": str(story().store), "validation_share": 0.0}))

    done = launch(config, tmp_path / "translator")

    assert done.returncode == 1
    assert "error: got no shadow set to validate on" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.yaml"]


@pytest.mark.parametrize(("process", "expected"), [(0, 5), (1, 11), (3, 13)])
def test_every_process_but_the_first_draws_from_a_seed_of_its_own(
    process: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = TranslatorArguments(store="s", output_dir=str(tmp_path), seed=10, use_cpu=True)
    monkeypatch.setattr(TranslatorArguments, "process_index", process)
    torch.manual_seed(5)

    ProcessSeed().on_train_begin(arguments, TrainerState(), TrainerControl())

    assert torch.initial_seed() == expected


def layout_ending_in(kind: str) -> BlockLayout:
    values = make_layout(3, 4).to_dict()
    values["blocks"][-1]["kind"] = kind
    return BlockLayout.from_dict(values)


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
@pytest.mark.parametrize("last_kind", ["block", "head"])
@pytest.mark.parametrize(("linear_rank", "has_transformer"), [(2, True), (0, True), (2, False)])
def test_parameters_without_a_gradient_are_foreseen(
    decoding: str, last_kind: str, linear_rank: int, has_transformer: bool
) -> None:
    config = GradTransformerConfig.from_layouts(
        make_layout(3, 4),
        layout_ending_in(last_kind),
        t5={"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        linear_rank=linear_rank,
        has_transformer=has_transformer,
        decoding=decoding,  # type: ignore[arg-type]
        block_positions=True,
        learned_scale=True,
    )
    model = GradTransformerModel(config)
    source = torch.randn(2, model.source_layout.num_blocks, model.source_layout.block_dim)

    model(source).predicted_blocks.square().sum().backward()

    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert has_idle_parameters(config) == bool(idle)


INTERRUPTED = """
import json, sys
from gradtx_hf.training.processes import train_in_processes
if __name__ == "__main__":
    try:
        train_in_processes(json.loads(sys.argv[1]), num_processes=2)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.slow
def test_an_interrupt_ends_all_processes_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    values = TRAINING | {"store": str(story().store), "output_dir": str(tmp_path / "t"), "max_steps": 1_000_000}
    command = [sys.executable, str(script), json.dumps(values)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as running:
        begin = time.monotonic()
        while not list(tmp_path.glob("t-checkpoints/checkpoint-*")) and time.monotonic() < begin + 120:
            time.sleep(0.2)
        os.killpg(running.pid, signal.SIGINT)
        told, _ = running.communicate(timeout=20)  # a launcher whose processes do not end waits for 30 seconds
    assert told == "interrupted\n"
    assert not (tmp_path / "t").exists()
