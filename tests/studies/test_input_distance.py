"""The study of the input distance, at toy size: the whole way, its numbers, its refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, MissingFileError, OutputExistsError
from gradtx_hf.lora import load_adapter
from gradtx_hf.studies.input_distance import DistanceSettings, auroc, main, study_input_distance
from gradtx_hf.studies.input_distance_adapters import KINDS, make_adapters, open_quickstart
from gradtx_hf.studies.quickstart import QuickstartSettings, run_quickstart
from tests.studies.toy import RECIPE


QUICKSTART = QuickstartSettings(
    num_public_rules=4,
    runs_per_rule=4,
    num_target_runs=2,
    samples_per_set=16,
    num_snapshots=2,
    source_recipe=RECIPE | {"num_steps": 8},
    target_recipe=RECIPE,
    num_public_finetune_steps=2,
    num_training_steps=2,
    num_training_processes=1,
    num_seen_scored=1,
    num_unseen_scored=1,
    num_private_lines=16,
    num_test_lines=4,
)
SETTINGS = DistanceSettings(num_seen=6, num_unseen=3, num_others=2, pretraining_divisor=500)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    run_quickstart(folder, seed=3, num_workers=1, settings=QUICKSTART)
    return folder


@pytest.fixture(scope="module")
def output(quickstart: Path) -> Path:
    folder = quickstart.parent / "study"
    study_input_distance(quickstart, folder, settings=SETTINGS)
    return folder


@pytest.fixture(scope="module")
def values(output: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((output / "input_distance.json").read_text())
    return read


@pytest.mark.slow
def test_every_kind_is_measured_and_shown(output: Path, values: dict) -> None:
    text = (output / "input_distance.md").read_text()

    assert list(values["kinds"]) == list(KINDS)
    assert all(kind.label in text for kind in KINDS.values())
    assert [len(values["kinds"][name]["distances"]) for name in ("seen", "unseen", "noise", "seen_clients")] == [
        6,
        3,
        2,
        1,
    ]
    assert (output / "input_distance.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_warnings_and_auroc_follow_from_the_distances(values: dict) -> None:
    seen = values["kinds"]["seen"]["distances"]

    for kind in values["kinds"].values():
        assert kind["num_warned"] == sum(distance > values["limit"] for distance in kind["distances"])
        if kind["auroc"] is not None:
            assert kind["auroc"] == pytest.approx(auroc(kind["distances"], seen))
    assert values["warned_share"] == values["kinds"]["seen"]["num_warned"] / 6


@pytest.mark.slow
def test_adapters_from_another_start_are_refused_and_lie_off_the_map(values: dict) -> None:
    other_start, seen = (values["kinds"][name] for name in ("other_start", "seen"))

    assert (other_start["num_refused"], seen["num_refused"]) == (2, 0)
    assert other_start["num_warned"] == 2
    assert min(other_start["distances"]) > max(seen["distances"])


@pytest.mark.slow
def test_changes_do_what_their_names_say(quickstart: Path) -> None:
    subject = open_quickstart(quickstart)
    numbers = {"seen": 2, "unseen": 2, "foreign": 2, "changed": 2}

    made = dict(make_adapters(subject, numbers=numbers, pretraining_divisor=500))

    start = subject.translator.source_init.tensors
    updates = {
        name: {key: adapters[1].tensors[key] - start[key] for key in start}
        for name, adapters in made.items()
        if "clients" not in name
    }
    for key, update in updates["seen"].items():
        torch.testing.assert_close(updates["flipped"][key], -update, rtol=0, atol=1e-6)
        torch.testing.assert_close(updates["scaled_3"][key], 3 * update, rtol=0, atol=1e-6)
        assert not updates["zero"][key].any()
        assert updates["noise"][key].norm() == pytest.approx(float(update.norm()), rel=1e-3)
        permuted = updates["permuted"][key]
        torch.testing.assert_close(permuted.flatten().sort()[0], update.flatten().sort()[0], rtol=0, atol=1e-6)
        assert not torch.equal(permuted, update)
        for name in ("learning_rate_3", "steps_4", "random_completions", "other_model", "unseen"):
            assert not torch.equal(updates[name][key], update)
    key = next(iter(start))
    assert updates["steps_4"][key].norm() > updates["seen"][key].norm() > updates["steps_quarter"][key].norm()


@pytest.mark.slow
def test_the_reference_is_no_shadow_set_and_no_client(quickstart: Path) -> None:
    subject = open_quickstart(quickstart)
    numbers = {"seen": 2, "unseen": 1, "foreign": 1, "changed": 1}

    name, fresh = next(make_adapters(subject, numbers=numbers, pretraining_divisor=500))

    client = load_adapter(next((quickstart / "evaluation" / "clients").iterdir()) / "source")
    assert name == "seen"
    assert not any(torch.equal(a.tensors[key], client.tensors[key]) for a in fresh for key in client.tensors)
    assert not set(subject.seen) & set(subject.unseen)
    assert len(subject.seen) == QUICKSTART.num_public_rules


@pytest.mark.parametrize(
    ("higher", "lower", "expected"),
    [((2, 3), (0, 1), 1.0), ((0,), (1, 2), 0.0), ((1, 1), (1,), 0.5), ((0, 2), (1,), 0.5), ((1, 2), (1, 0), 0.875)],
)
def test_auroc_is_the_chance_to_lie_above(higher: tuple, lower: tuple, expected: float) -> None:
    assert auroc(higher, lower) == expected


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds no quickstart"):
        study_input_distance(tmp_path, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_an_unfinished_quickstart_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quickstart.json").write_text("{}")

    with pytest.raises(MissingFileError, match="not finished"):
        study_input_distance(tmp_path, tmp_path / "study")


@pytest.mark.slow
def test_a_translator_without_an_input_distance_is_refused(quickstart: Path, tmp_path: Path) -> None:
    shutil.copytree(quickstart, tmp_path, dirs_exist_ok=True)
    (tmp_path / "translator" / "input_distance.safetensors").unlink()

    with pytest.raises(ConfigurationError, match="has no input distance"):
        study_input_distance(tmp_path, tmp_path / "study")


@pytest.mark.slow
def test_an_output_folder_that_is_in_use_is_refused_at_once(quickstart: Path) -> None:
    with pytest.raises(OutputExistsError, match="not empty"):
        study_input_distance(quickstart, quickstart)


def test_on_the_command_line_a_refusal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["input_distance", str(tmp_path), "--output-dir", str(tmp_path / "study")])

    with pytest.raises(SystemExit) as raised:
        main()

    assert re.fullmatch(r"error: '.*' holds no quickstart\. .*", str(raised.value.code))
