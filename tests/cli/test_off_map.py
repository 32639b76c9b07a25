"""Translate and inspect with a translator that knows how far its shadow sets' updates reach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import InputDistance
from gradtx_hf.translation.distance_file import INPUT_DISTANCE_FILE, save_input_distance
from gradtx_hf.updates import UpdateVector
from tests.cli.conftest import Finished
from tests.cli.story import story
from tests.translation.clouds import write_store


Run = Callable[..., Finished]


def translator_with_shadows(folder: Path, *, size: float) -> Path:
    """Copy the story's translator, with shadow sets around ``size`` times the update of the story's client."""
    start = load_adapter(story().translator / "source_init")
    update = UpdateVector.between(load_adapter(story().client).tensors, start.tensors, start.layout).tokens
    noise = 0.2 * update.square().mean().sqrt() * torch.randn(20, *update.shape) * start.layout.mask()
    store = write_store(folder / "shadows", size * (update + noise), start.layout)
    shutil.copytree(story().translator, folder / "translator")
    (folder / "translator" / INPUT_DISTANCE_FILE).unlink(missing_ok=True)
    save_input_distance(folder / "translator", InputDistance.fit(store, fit_sets=range(20), held_out_sets=()))
    return folder / "translator"


def test_translate_warns_of_an_adapter_off_the_map_and_goes_on(gradtx: Run, tmp_path: Path) -> None:
    translator = translator_with_shadows(tmp_path, size=0.1)

    done = gradtx("translate", story().client, "--translator", translator, "--output-dir", tmp_path / "out")

    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    report = json.loads((tmp_path / "out" / "translation.json").read_text())
    assert (done.status, done.out) == (0, f"{tmp_path / 'out'}\n")
    assert warning.startswith(f"warning: adapter '{story().client}' lies off the map: its update is ")
    assert report["warnings"] == [warning.removeprefix("warning: ")]
    entry = report["adapters"][0]
    assert entry["input_distance"] > entry["input_distance_limit"]
    assert f", input distance {entry['input_distance']:.3g} (limit {entry['input_distance_limit']:.3g})" in done.err


def test_translate_does_not_warn_of_an_adapter_on_the_map(gradtx: Run, tmp_path: Path) -> None:
    translator = translator_with_shadows(tmp_path, size=1)

    done = gradtx("translate", story().client, "--translator", translator, "--output-dir", tmp_path / "out", "--json")

    assert "warning: " not in done.err
    assert json.loads(done.out)["warnings"] == []


def test_inspect_tells_the_limit_of_the_input_distance(gradtx: Run, tmp_path: Path) -> None:
    translator = translator_with_shadows(tmp_path, size=1)

    limit = json.loads(gradtx("inspect", translator, "--json").out)["input_distance_limit"]

    assert limit > 1
    assert f"input_distance_limit: {limit}" in gradtx("inspect", translator).out.splitlines()


def test_inspect_says_where_an_input_distance_is_lacking(gradtx: Run, tmp_path: Path) -> None:
    shutil.copytree(story().translator, tmp_path / "older")
    (tmp_path / "older" / INPUT_DISTANCE_FILE).unlink(missing_ok=True)

    described = json.loads(gradtx("inspect", tmp_path / "older", "--json").out)
    text = gradtx("inspect", tmp_path / "older").out

    assert described["input_distance_limit"] is None
    assert "input_distance_limit: none, not calibrated" in text


@pytest.mark.parametrize("command", ["inspect", "translate"])
def test_a_damaged_input_distance_is_refused_in_one_line(gradtx: Run, command: str, tmp_path: Path) -> None:
    translator = translator_with_shadows(tmp_path, size=1)
    (translator / INPUT_DISTANCE_FILE).write_bytes(b"nothing")

    arguments = {
        "inspect": [translator],
        "translate": [story().client, "--translator", translator, "--output-dir", tmp_path / "out"],
    }
    done = gradtx(command, *arguments[command])

    assert f"{INPUT_DISTANCE_FILE} of translator '{translator}' is truncated or damaged" in done.error
    assert not (tmp_path / "out").exists()
