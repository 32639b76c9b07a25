"""Stores of one source, one after the other: source runs are fine-tuned once, and are what they would have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gradtx_hf.curation import curate, run
from gradtx_hf.curation.worker import Pack
from gradtx_hf.studies.cells import World
from gradtx_hf.studies.shared_runs import share_source_runs
from gradtx_hf.studies.world import Place, curation_arguments
from gradtx_hf.updates import TOKEN_KINDS
from gradtx_hf.updates.store import UpdateStore
from tests.studies.toy import TOY


WITH_KINDS = replace(
    TOY.world,
    target_modules=("q_proj", "up_proj"),
    token_kinds={kind: TOKEN_KINDS[kind] for kind in ("attention", "mlp")},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    for world in (TOY.world, WITH_KINDS):
        make(folder, world)
    return folder


def make(folder: Path, world: World) -> UpdateStore:
    arguments = curation_arguments(world, Place(folder, 0), num_workers=1)
    share_source_runs(arguments, Path(arguments.output_dir).parent)
    return curate(arguments)


def test_a_store_with_shared_runs_is_the_one_that_would_have_been_curated(folder: Path) -> None:
    arguments = curation_arguments(WITH_KINDS, Place(folder, 0), num_workers=1)
    alone = curate(replace(arguments, output_dir=str(folder / "alone")))

    for path in sorted(alone.folder.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (Path(arguments.output_dir) / path.relative_to(alone.folder)).read_bytes()


def test_only_runs_that_are_missing_are_fine_tuned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def perform(packs: Sequence[Pack], *rest: object) -> None:
        done.extend(f"{pack.shared.side} {item.shadow_set}" for pack in packs for item in pack.runs)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_perform", perform)
    with pytest.raises(KeyboardInterrupt):
        make(folder, replace(TOY.world, target_modules=("v_proj",)))
    assert done
    assert all(name.startswith("target") for name in done)


@pytest.mark.parametrize(
    "changes",
    [{"source_modules": ("q_proj",)}, {"samples_per_set": 6}, {"shadow_recipe": {"learning_rate": 1e-4}}],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_of_another_source_or_other_data_are_not_shared(folder: Path, changes: dict[str, object]) -> None:
    arguments = curation_arguments(replace(TOY.world, **changes), Place(folder, 0), num_workers=1)  # type: ignore[arg-type]

    assert share_source_runs(arguments, Path(arguments.output_dir).parent) == 0
