"""``gradtx aggregate``, and the flags that it shares with ``gradtx translate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradtx_hf.lora import load_adapter, save_adapter
from tests.cli.conftest import Finished
from tests.cli.story import story


Run = Callable[..., Finished]


def scaled(folder: Path, factor: float) -> Path:
    """Write the story's client with its update multiplied."""
    client, start = load_adapter(story().client), load_adapter(story().translator / "source_init").tensors
    tensors = {name: start[name] + factor * (client.tensors[name] - start[name]) for name in start}
    save_adapter(folder, config=client.config, tensors=tensors)
    return folder


def broken(folder: Path) -> Path:
    """Write the story's client with a number that is none."""
    client = load_adapter(story().client)
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in client.tensors.items()}
    save_adapter(folder, config=client.config, tensors=tensors)
    return folder


@pytest.mark.parametrize("start", ["--translator", "--init"])
def test_it_writes_one_source_adapter_and_prints_its_folder(gradtx: Run, start: str, tmp_path: Path) -> None:
    folder = story().translator / "source_init" if start == "--init" else story().translator
    others = [scaled(tmp_path / name, factor) for name, factor in (("double", 2.0), ("triple", 3.0))]

    done = gradtx(
        *("aggregate", story().client, *others, start, folder, "--output-dir", tmp_path / "out"),
        *("--aggregation", "median"),
    )

    assert (done.status, done.out) == (0, f"{tmp_path / 'out'}\n")
    assert f"{others[0]}: distance to the translator's start 0." in done.err
    assert ", share 1, norm " in done.err
    assert f"next: gradtx translate {tmp_path / 'out'} --translator {story().translator}" in done.err
    expected = load_adapter(others[0]).tensors
    for name, tensor in load_adapter(tmp_path / "out").tensors.items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("command", ["aggregate", "translate"])
def test_a_client_that_is_left_out_is_told_of(gradtx: Run, command: str, tmp_path: Path) -> None:
    bad = broken(tmp_path / "bad")
    arguments = [command, story().client, bad, "--translator", story().translator, "--output-dir", tmp_path / "out"]

    refused = gradtx(*arguments)
    done = gradtx(*arguments, "--skip-invalid", "--json")

    assert f"of adapter '{bad}' holds NaN or infinite values" in refused.error
    assert done.status == 0
    assert f"warning: adapter '{bad}' was left out: tensor " in done.err
    assert [entry["name"] for entry in json.loads(done.out)["skipped"]] == [str(bad)]


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--aggregation", "trimmed_mean", "--trim", "1"], {"merge": "before", "trim": 1.0}),
        (["--aggregation", "clipped_mean", "--clip-norm", "0.5"], {"merge": "before", "clip_norm": 0.5}),
        (["--aggregation", "clipped_mean", "--merge", "after"], {"merge": "after", "clip_norm": None}),
        (["--aggregation", "ties", "--density", "0.3"], {"merge": "before", "density": 0.3}),
        (["--aggregation", "dare_ties", "--seed", "3"], {"merge": "before", "density": 0.5, "seed": 3}),
    ],
)
def test_flags_are_the_settings(gradtx: Run, flags: list[str], settings: dict[str, object], tmp_path: Path) -> None:
    clients = [story().client, scaled(tmp_path / "double", 2.0), scaled(tmp_path / "half", 0.5)]

    done = gradtx(
        "translate", *clients, "--translator", story().translator, "--output-dir", tmp_path / "out", *flags, "--json"
    )

    assert json.loads(done.out)["aggregation_settings"] == settings


def aggregate(folder: Path, *flags: object) -> list[object]:
    return ["aggregate", story().client, "--translator", story().translator, "--output-dir", folder / "out", *flags]


REFUSALS: dict[str, Callable[[Path], list[object]]] = {
    "trim goes with trimmed_mean, not with mean": lambda f: aggregate(f, "--trim", 1),
    "got trim=1 for 1 adapters: nothing would be left": lambda f: aggregate(
        f, "--aggregation", "trimmed_mean", "--trim", 1
    ),
    "got clip_norm=-1.0, expected a positive number": lambda f: aggregate(
        f, "--aggregation", "clipped_mean", "--clip-norm=-1"
    ),
    "got 2 weights for 1 adapters": lambda f: aggregate(f, "--weights", "1,2"),
    "none of 1 adapters can be used": lambda f: [
        *("aggregate", broken(f / "bad"), "--translator", story().translator, "--output-dir", f / "out"),
        "--skip-invalid",
    ],
    "is not an adapter": lambda f: [
        *("aggregate", story().client, "--init", story().folder / "source", "--output-dir", f / "out"),
    ],
}


@pytest.mark.parametrize("words", REFUSALS)
def test_what_makes_no_sense_is_refused_in_one_line(gradtx: Run, words: str, tmp_path: Path) -> None:
    done = gradtx(*REFUSALS[words](tmp_path))

    assert words in done.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["--translator", "a", "--init", "b"]])
def test_it_needs_one_start(gradtx: Run, more: list[str], tmp_path: Path) -> None:
    done = gradtx("aggregate", "adapter", "--output-dir", tmp_path / "out", *more)

    assert done.status == 2
