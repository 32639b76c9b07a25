from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from torch import Tensor

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.curation.packing import plan_packs
from gradtx_hf.errors import ConfigurationError, StoreError
from gradtx_hf.playground import source_path
from gradtx_hf.updates.store import SIDES, UpdateStore
from tests.curation.world import RULES, save_model, write_lines


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> CurationArguments:
    folder = tmp_path_factory.mktemp("packing")
    recipe = {"num_steps": 12, "batch_size": 4, "learning_rate": 1e-2, "max_length": 32}
    return CurationArguments(
        source_model=str(save_model(folder / "source", hidden_size=8, num_layers=2, seed=0)),
        target_model=str(save_model(folder / "target", hidden_size=16, num_layers=1, seed=1)),
        output_dir="",
        corpora=[
            {"path": str(write_lines(folder / f"{rule.name}.jsonl", rule, 24)), "label": rule.name} for rule in RULES
        ],
        num_shadow_sets=5,
        num_target_runs=3,
        samples_per_set=16,
        num_snapshots=3,
        source_recipe=recipe,
        target_recipe=recipe,
        dropout=0.0,
    )


def curated(arguments: CurationArguments, folder: Path) -> UpdateStore:
    return curate(replace(arguments, output_dir=str(folder)))


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Return a difference that AdamW makes of the last bits of gradients near zero."""
    return float((got - expected).norm() / expected.norm())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("num_sets", [0, 1, 2, 7, 27, 108])
@pytest.mark.parametrize("pack", [1, 2, 4, 16])
def test_packs_are_few_even_and_of_all_sets_in_order(num_sets: int, pack: int) -> None:
    shadow_sets = list(range(3, 3 + 2 * num_sets, 2))

    packs = plan_packs(shadow_sets, pack=pack)

    assert [k for sets in packs for k in sets] == shadow_sets
    assert len(packs) == -(-num_sets // pack)
    assert all(0 < len(sets) <= pack for sets in packs)
    assert max(map(len, packs), default=0) - min(map(len, packs), default=0) <= 1


def test_packed_updates_are_those_of_runs_alone(arguments: CurationArguments, tmp_path: Path) -> None:
    packed = curated(arguments, tmp_path / "packed")
    alone = curated(replace(arguments, pack=1, target_pack=1), tmp_path / "alone")

    for side in SIDES:
        for k in alone.shadow_sets(side):
            expected = alone.read(side, k)
            assert float(expected.norm()) > 0.1
            assert relative_difference(packed.read(side, k), expected) < 1e-2
            assert packed.info(side, k)["seed"] == alone.info(side, k)["seed"]


def test_converged_runs_keep_the_last_steps_of_their_own(arguments: CurationArguments, tmp_path: Path) -> None:
    recipe = arguments.source_recipe | {
        "num_steps": 30,
        "until_converged": True,
        "convergence_window": 5,
        "convergence_threshold": 0.15,
        "convergence_patience": 1,
    }
    early = replace(arguments, source_model=str(source_path()), source_recipe=recipe, num_target_runs=0)
    packed = curated(early, tmp_path / "packed")
    alone = curated(replace(early, pack=1), tmp_path / "alone")

    num_steps = [packed.info("source", k)["num_steps"] for k in range(5)]
    assert len(set(num_steps)) > 1
    assert num_steps == [alone.info("source", k)["num_steps"] for k in range(5)]
    for k in range(5):
        assert relative_difference(packed.read("source", k), alone.read("source", k)) < 1e-2


def test_pack_that_is_not_whole_is_done_again_with_the_same_bytes(arguments: CurationArguments, tmp_path: Path) -> None:
    in_threes = replace(arguments, pack=3, dropout=0.1)
    store = curated(in_threes, tmp_path / "store")
    before = contents(store.folder)
    shards = store.folder / "shards"
    times = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    (store.folder / "manifest.json").unlink()
    (shards / "source-00003.safetensors").unlink()

    curated(in_threes, store.folder)

    assert contents(store.folder) == before
    written = {path.name for path in shards.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert written == {f"source-0000{k}.safetensors" for k in (2, 3, 4)}


def test_packs_are_part_of_the_plan(arguments: CurationArguments, tmp_path: Path) -> None:
    store = curated(arguments, tmp_path / "store")

    assert store.plan["pack"] == {"source": 16, "target": 4}
    with pytest.raises(StoreError, match=r"pack.source is 4, the store has 16"):
        curated(replace(arguments, pack=4), store.folder)
    curated(replace(arguments, num_workers=2), store.folder)


def test_size_that_is_tried_goes_into_the_plan_and_is_never_tried_again(
    arguments: CurationArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    automatic = replace(arguments, pack="auto", target_pack="auto")
    store = curated(automatic, tmp_path / "store")
    size, target_size = (store.plan["pack"][side] for side in SIDES)
    (store.folder / "manifest.json").unlink()
    (store.folder / "shards" / "source-00003.safetensors").unlink()

    def never(*_: object, **__: object) -> int:
        raise AssertionError("tried again")

    monkeypatch.setattr("gradtx_hf.curation.packing.try_pack_sizes", never)
    again = curated(automatic, store.folder)
    same = curated(replace(arguments, pack=size, target_pack=target_size), tmp_path / "same")

    assert 1 <= size <= 5
    assert 1 <= target_size <= 3
    assert store.plan["units"] == {
        "source": plan_packs(range(5), pack=size),
        "target": plan_packs(store.plan["target_shadow_sets"], pack=target_size),
    }
    assert contents(again.folder) == contents(same.folder)
    with pytest.raises(StoreError, match=rf"pack.source is 9, the store has {size}"):
        curated(replace(automatic, pack=9), store.folder)


def test_run_of_a_pack_that_diverges_is_named_and_nothing_of_it_is_kept(
    arguments: CurationArguments, tmp_path: Path
) -> None:
    recipe = arguments.target_recipe | {"learning_rate": 1e30, "max_grad_norm": 0.0}

    with pytest.raises(ConfigurationError, match=r"target run of shadow set \d: the loss is no longer finite"):
        curated(replace(arguments, target_recipe=recipe), tmp_path / "store")

    assert {path.name[:6] for path in (tmp_path / "store" / "shards").iterdir()} == {"source"}


def test_size_is_a_number_or_auto_on_the_command_line(arguments: CurationArguments, tmp_path: Path) -> None:
    config = tmp_path / "curate.yaml"
    config.write_text(yaml.safe_dump(asdict(arguments) | {"output_dir": "store", "target_pack": "auto"}))

    given, _ = parse_into(
        CurationArguments, ["--config", str(config), "--pack", "auto"], command="curate", description=""
    )
    numbers, _ = parse_into(
        CurationArguments, ["--config", str(config), "--pack", "8"], command="curate", description=""
    )

    assert (given.pack, given.target_pack) == ("auto", "auto")
    assert (numbers.pack, numbers.target_pack) == (8, "auto")


@pytest.mark.parametrize("name", ["pack", "target_pack"])
@pytest.mark.parametrize("value", [0, "most", 2.5, None])
def test_pack_of_none_is_refused(arguments: CurationArguments, name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"got {name}={value!r}, expected at least 1, or auto"):
        replace(arguments, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_time_between_checkpoints_is_checked(arguments: CurationArguments, value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"got checkpoint_seconds=.*, expected 0 or more"):
        replace(arguments, checkpoint_seconds=value)
