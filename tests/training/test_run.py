from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, OutputExistsError, StoreError
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.lora import load_adapter
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.training.run import start_distance_limit
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import encode_update
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import TRAINING, story
from tests.tiny import save_tiny_adapter


def make_arguments(folder: Path, **changes: object) -> TranslatorArguments:
    values = {**TRAINING, "store": str(story().store), "output_dir": str(folder), **changes}
    return TranslatorArguments(**values)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, total_step: int) -> None:
    """Press Ctrl-C at a step, counted over all trainings."""
    steps = []

    def count(self: StepBar, args: object, state: object, control: object, **kwargs: object) -> None:
        steps.append(1)
        if len(steps) == total_step:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepBar, "on_step_end", count)


def test_a_trained_translator_is_a_folder_of_five_and_nothing_beside_it(tmp_path: Path) -> None:
    train(make_arguments(tmp_path / "translator"))

    assert [path.name for path in tmp_path.iterdir()] == ["translator"]
    assert sorted(path.name for path in (tmp_path / "translator").iterdir()) == [
        "config.json",
        "model.safetensors",
        "source_init",
        "target_init",
        "training.json",
    ]
    for name in ("source_init", "target_init"):
        mine, curated = (load_adapter(folder / name).tensors for folder in (tmp_path / "translator", story().store))
        assert all(torch.equal(mine[key], curated[key]) for key in curated)


@pytest.mark.parametrize("objective", ["functional", "parameter"])
def test_the_record_says_with_what_and_how_well(objective: str, tmp_path: Path) -> None:
    translator = train(make_arguments(tmp_path / "translator", objective=objective))

    record = json.loads((tmp_path / "translator" / "training.json").read_text())
    assert (record["arguments"]["max_steps"], record["arguments"]["store"]) == (4, str(story().store))
    assert (record["num_processes"], record["arguments"]["objective"]) == (1, objective)
    part = record["parts"]["whole"]
    assert part["num_steps"] == 4
    assert (part["num_training_updates"], len(part["validation_shadow_sets"])) == (4, 1)
    config = translator.parts[""].config
    assert (config.source_base_model, config.target_base_model) == (
        story().curation["source_model"],
        story().curation["target_model"],
    )
    if objective == "functional":
        assert 0 < part["metrics"]["eval_loss"] < 2 * part["metrics"]["eval_untouched_loss"]
        assert part["block_errors"] == {}
    else:
        assert part["metrics"]["eval_generated_relative_error"] > 0
        last = part["block_errors"]["validations"][-1]
        assert last["kept"]
        assert len(last["teacher_forced"]) == len(last["generated"]) == len(part["block_errors"]["blocks"])


@pytest.mark.parametrize(
    ("partition", "objective"), [("projection", "parameter"), ("reversed", "parameter"), ("reversed", "functional")]
)
def test_other_partitions_train_a_translator_that_loads_and_translates(
    partition: str, objective: str, tmp_path: Path
) -> None:
    train(make_arguments(tmp_path / "translator", partition=partition, objective=objective))

    translator = PeftTranslator.from_pretrained(tmp_path / "translator")
    assert list(translator.parts) == (["q_proj", "v_proj"] if partition == "projection" else [""])
    assert set(translator.translate(story().client).tensors) == set(translator.target_init.tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["translator"]
    record = json.loads((tmp_path / "translator" / "training.json").read_text())
    assert list(record["parts"]) == (["q_proj", "v_proj"] if partition == "projection" else ["whole"])


@pytest.mark.parametrize(
    ("partition", "objective", "step"),
    [
        ("block", "functional", 3),
        ("block", "parameter", 3),
        pytest.param("projection", "parameter", 7, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_translator(
    partition: str, objective: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"partition": partition, "objective": objective, "input_noise": 0.2}
    train(make_arguments(tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(make_arguments(tmp_path / "interrupted", **options))
    assert not (tmp_path / "interrupted").exists()
    assert list((tmp_path / "interrupted-checkpoints").rglob("checkpoint-2"))

    train(make_arguments(tmp_path / "interrupted", **options))

    first, second = (contents(tmp_path / name) for name in ("whole", "interrupted"))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == ["training.json"]  # it has the seconds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interrupted", "whole"]


def test_checkpoints_of_another_training_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(make_arguments(tmp_path / "translator"))
    before = contents(tmp_path)

    with pytest.raises(OutputExistsError, match="holds checkpoints of another training"):
        train(make_arguments(tmp_path / "translator", learning_rate=0.5))

    assert contents(tmp_path) == before


def test_a_checkpoint_that_was_not_finished_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(make_arguments(tmp_path / "translator"))
    (tmp_path / "translator-checkpoints" / "checkpoint-4").mkdir()

    train(make_arguments(tmp_path / "translator"))

    assert [path.name for path in tmp_path.iterdir()] == ["translator"]


def test_an_interruption_before_the_first_checkpoint_leaves_every_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(make_arguments(tmp_path / "translator"))

    train(make_arguments(tmp_path / "translator", learning_rate=0.5))

    assert [path.name for path in tmp_path.iterdir()] == ["translator"]


@pytest.mark.parametrize("place", ["translator", "translator-checkpoints"])
def test_a_folder_with_something_in_it_is_left_alone(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "notes.txt").write_text("keep")

    with pytest.raises(OutputExistsError, match=f"{place}' exists and is not empty"):
        train(make_arguments(tmp_path / "translator"))

    assert contents(tmp_path) == {f"{place}/notes.txt": b"keep"}


def test_a_refused_training_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no shadow set to validate on"):
        train(make_arguments(tmp_path / "translator", validation_share=0.0))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": ""}, "'store' is missing. Give it in --config, or as --store."),
        ({"output_dir": None}, "'output_dir' is missing. Give it in --config, or as --output-dir."),
    ],
)
def test_store_and_folder_have_no_default(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_arguments(tmp_path / "translator", **changes)


def test_a_partition_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got partition 'halves', expected one of block, projection, reversed"):
        train(make_arguments(tmp_path / "translator", partition="halves"))

    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    whole = UpdateStore.open(story().store)
    layouts = {"source_layout": whole.source_layout, "target_layout": whole.target_layout}
    UpdateStore.create(tmp_path / "store", plan={"num_shadow_sets": 1}, **layouts)

    with pytest.raises(StoreError, match="is not complete"):
        train(make_arguments(tmp_path / "translator", store=str(tmp_path / "store")))

    assert not (tmp_path / "translator-checkpoints").exists()


def write_store_at_distances(folder: Path, distances: list[float]) -> UpdateStore:
    """Write a store whose shadow updates turn A's rows away from the start by angles of the given sines."""
    init = load_adapter(save_tiny_adapter(folder / "source_init", randomise_b=False))
    moved = dict(init.tensors)
    generator = torch.Generator().manual_seed(0)
    store = UpdateStore.create(
        folder / "store",
        plan={"num_shadow_sets": len(distances)},
        source_layout=init.layout,
        target_layout=init.layout,
    )
    for k, distance in enumerate(distances):
        tangent = distance / math.sqrt(1 - distance**2)
        for name, start in init.tensors.items():
            if name.endswith("lora_B"):
                moved[name] = 0.01 * torch.randn(start.shape, generator=generator)
                continue
            basis = torch.linalg.qr(torch.cat([start, torch.randn(2, start.shape[1], generator=generator)]).T).Q.T
            scales = start.norm() / math.sqrt(2)
            moved[name] = start + tangent * scales * basis[2:]
        update = {name: moved[name] - start for name, start in init.tensors.items()}
        for side in ("source", "target"):
            store.write(side, k, encode_update(update, init.layout)[None], {})  # type: ignore[arg-type]
    store.finish()
    for name in ("source_init", "target_init"):
        shutil.copytree(folder / "source_init", folder / "store" / name)
    return UpdateStore.open(folder / "store")


def test_adapters_are_accepted_up_to_halfway_between_the_farthest_shadow_and_another_start(tmp_path: Path) -> None:
    store = write_store_at_distances(tmp_path, [0.1, 0.6, 0.3])

    limit = start_distance_limit(store, load_adapter(tmp_path / "source_init"))

    # the rows of a random A0 are neither orthogonal nor equally long, so that 0.6 is met roughly
    assert limit == pytest.approx(0.8, abs=0.02)


def train_on_sets(folder: Path, num_shadow_sets: int) -> PeftTranslator:
    """Train on a store of so many shadow sets, a third of them held out."""
    store = write_store_at_distances(folder, [0.1] * num_shadow_sets)
    return train(
        make_arguments(folder / "translator", store=str(store.folder), objective="parameter", validation_share=1 / 3)
    )


def test_a_translator_knows_how_far_its_shadow_sets_lie(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = train_on_sets(tmp_path, 12)

    record = json.loads((tmp_path / "translator" / "training.json").read_text())
    assert len(record["parts"]["whole"]["validation_shadow_sets"]) == 4
    loaded = PeftTranslator.from_pretrained(tmp_path / "translator")
    assert trained.input_distance is not None
    assert loaded.input_distance is not None
    assert record["input_distance_limit"] == loaded.input_distance.limit == trained.input_distance.limit > 1
    shadow = UpdateStore.open(tmp_path / "store").snapshot("source", 0, -1)
    assert loaded.input_distance.measure(shadow) <= loaded.input_distance.limit
    assert loaded.input_distance.measure(100 * shadow) > loaded.input_distance.limit
    assert "off the map" not in caplog.text


def test_too_few_shadow_sets_give_no_distance_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = train_on_sets(tmp_path, 9)

    record = json.loads((tmp_path / "translator" / "training.json").read_text())
    assert trained.input_distance is record["input_distance_limit"] is None
    assert not (tmp_path / "translator" / "input_distance.safetensors").exists()
    (line,) = [entry.getMessage() for entry in caplog.records if "off the map" in entry.getMessage()]
    assert "got 6 shadow sets to fit an input distance to, expected at least 8" in line


def test_a_shard_with_a_changed_byte_is_refused_before_training(tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(story().store, store)
    shard = next((store / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)

    with pytest.raises(StoreError, match=shard.name):
        train(make_arguments(tmp_path / "translator", store=str(store)))

    assert not (tmp_path / "translator").exists()
