"""Losses go nowhere by default, and where ``report_to`` says if it is there."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.errors import ConfigurationError, MissingExtraError
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.training import TranslatorArguments, train
from tests.cli.story import TRAINING, story


ABSENT = sorted({"tensorboard", "trackio", "wandb"} - set(get_available_reporting_integrations()))


def make_arguments(folder: Path, **changes: object) -> TranslatorArguments:
    values = TRAINING | {"store": str(story().store), "output_dir": str(folder)} | changes
    return TranslatorArguments(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ABSENT)
def test_a_package_that_is_not_there_is_one_clear_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=rf"^report_to='{name}' needs {name}. Install it with: pip install"):
        make_arguments(tmp_path / "out", report_to=[name])


def test_a_reporter_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got report_to='paper', expected 'none', 'tensorboard' or 'trackio'"):
        make_arguments(tmp_path / "out", report_to="paper")


def test_the_command_takes_it_as_a_flag(tmp_path: Path) -> None:
    flags = ["--store", "s", "--output-dir", str(tmp_path), "--use-cpu", "--report-to", "none"]

    arguments, _ = parse_into(TranslatorArguments, flags, command="train", description="")

    assert arguments.report_to == []


def test_what_is_logged_beside_the_checkpoints_is_kept_with_the_translator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write_log(
        self: StepBar, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        folder = Path(str(args.output_dir)) / "runs" / "today"  # as TensorBoard's callback does
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events").write_text(json.dumps(state.log_history))

    monkeypatch.setattr(StepBar, "on_log", write_log)

    train(make_arguments(tmp_path / "whole"))
    train(make_arguments(tmp_path / "parts", objective="parameter", partition="projection"))

    assert (tmp_path / "whole" / "runs" / "today" / "events").is_file()
    assert len(list((tmp_path / "parts" / "runs").glob("*/today/events"))) == 2
    assert not list(tmp_path.glob("*-checkpoints"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="needs trackio")
@pytest.mark.skipif("trackio" in sys.modules, reason="trackio was imported with another folder")
@pytest.mark.parametrize("objective", ["functional", "parameter"])
def test_trackio_gets_every_loss_without_a_network(
    objective: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path_factory.getbasetemp() / "trackio"  # one for both: trackio reads it when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(folder))

    train(
        make_arguments(
            tmp_path / "out",
            objective=objective,
            report_to="trackio",
            logging_steps=1,
            project="gradtx",
            run_name=objective,
        )
    )

    with contextlib.closing(sqlite3.connect(folder / "gradtx.db")) as database:
        rows = database.execute("select metrics from metrics where run_name = ?", [objective]).fetchall()
        names = [json.loads(row[0]) for row in rows]
    losses = [row["train/loss"] for row in names if "train/loss" in row]
    assert len(losses) == TRAINING["max_steps"]
    assert all(loss > 0 for loss in losses)
    assert any("eval/loss" in row for row in names)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not list(tmp_path.rglob("*.db"))
