"""Clients' runs at once: which go together, and that each adapter is the one that it would have been alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from gradtx_hf.curation import curate
from gradtx_hf.evaluation import fine_tuning
from gradtx_hf.evaluation.fine_tuning import (
    FineTuningJob,
    FineTuningPack,
    pack_jobs,
    perform_fine_tuning,
    perform_pack,
)
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings, Sample
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground import Rule
from gradtx_hf.studies.world import Place, curation_arguments, lines_file
from tests.studies.toy import RECIPE, TOY


RECIPE_OF_CLIENTS = FineTuningRecipe.from_dict(RECIPE)
PRIVACY = {"epsilon": 8.0, "delta": 1e-5, "max_grad_norm": 1.0}


def run(number: int, *, init: str = "source_init", rule: str = "a", seed: int = 0) -> FineTuningJob:
    sample = Sample.from_dict({"path": f"{rule}.jsonl"})
    return FineTuningJob(init, (sample,), "store", RECIPE_OF_CLIENTS, seed, f"out/{number}")


def test_runs_of_one_start_and_recipe_go_together_but_not_too_many() -> None:
    sources = [run(n) for n in range(7)]
    targets = [run(n, init="target_init") for n in (20, 21)]

    packs = pack_jobs([*sources, *targets], most_at_once=6)

    assert [len(pack.jobs) for pack in packs] == [4, 3, 2]
    assert [item for pack in packs for item in pack.jobs] == [*sources, *targets]


def test_private_runs_and_the_public_one_go_alone() -> None:
    private = [replace(run(n), privacy=PrivacySettings.from_dict(PRIVACY)) for n in (0, 1)]
    public = [replace(run(n), samples=None) for n in (4, 5)]

    assert [len(pack.jobs) for pack in pack_jobs([*private, *public], most_at_once=6)] == [1] * 4


@pytest.mark.parametrize(("num_parts", "sizes"), [(2, [3, 2]), (3, [2, 2, 1]), (6, [1] * 5), (9, [1] * 5)])
def test_each_part_counts_as_a_run(num_parts: int, sizes: list[int]) -> None:
    parts = replace(RECIPE_OF_CLIENTS, num_parts=num_parts)
    packs = pack_jobs([replace(run(n), recipe=parts) for n in range(5)], most_at_once=6)

    assert [len(pack.jobs) for pack in packs] == sizes


def test_the_public_run_reads_as_many_rows_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_list([{"prompt": str(n), "completion": "x"} for n in range(1000)])
    read: list[Dataset] = []
    monkeypatch.setattr(fine_tuning, "pooled_public_examples", lambda store: rows)
    monkeypatch.setattr(fine_tuning, "fine_tune_client", lambda init, examples, **options: read.append(examples))
    monkeypatch.setattr(fine_tuning.UpdateStore, "open", lambda folder: None)
    job = replace(run(0), samples=None, recipe=replace(RECIPE_OF_CLIENTS, num_steps=5, batch_size=4))

    for seed in (0, 0, 1):
        perform_fine_tuning(replace(job, seed=seed))

    chosen = [[int(text) for text in examples["prompt"]] for examples in read]
    assert [len(set(numbers)) for numbers in chosen] == [20] * 3
    assert chosen[0] == chosen[1] != chosen[2]
    assert max(chosen[0]) > 500 > min(chosen[0])


def test_adapters_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [replace(run(n), output_dir=str(tmp_path / str(n))) for n in range(4)]
    (tmp_path / "1").mkdir()
    packs: list[FineTuningPack] = []
    monkeypatch.setattr(fine_tuning, "perform_pack", packs.append)

    fine_tuning.perform_missing(jobs, most_at_once=2, num_workers=1)

    assert [pack.jobs for pack in packs] == [(jobs[0], jobs[2]), (jobs[3],)]


@pytest.mark.parametrize(("side", "num_parts"), [("source", 1), ("source", 2), ("target", 1)])
def test_an_adapter_of_a_pack_is_the_one_of_its_run_alone(side: str, num_parts: int, tmp_path: Path) -> None:
    place = Place(tmp_path, 0)
    store = curate(replace(curation_arguments(TOY.world, place, num_workers=1), num_shadow_sets=1, num_target_runs=0))
    paths = [lines_file(place, "own", rule, 20) for rule in (Rule("reverse", 3), Rule("identity", 1))]
    init, recipe = str(store.folder / f"{side}_init"), replace(RECIPE_OF_CLIENTS, num_parts=num_parts)
    runs = [
        FineTuningJob(init, (Sample.from_dict({"path": str(path)}),), "", recipe, n, str(tmp_path / f"pack-{n}"))
        for n, path in enumerate(paths)
    ]

    perform_pack(FineTuningPack(tuple(runs)))

    for n, item in enumerate(runs):
        perform_fine_tuning(replace(item, output_dir=str(tmp_path / f"alone-{n}")))
        packed, alone = (load_adapter(tmp_path / f"{name}-{n}") for name in ("pack", "alone"))
        assert packed.base_model == alone.base_model
        assert packed.scales == alone.scales
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(packed.tensors[name], tensor, atol=1e-5, rtol=1e-4)
    first, second = (load_adapter(tmp_path / f"pack-{n}").tensors for n in (0, 1))
    assert not all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
