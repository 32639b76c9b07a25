"""The studies of the repository: every cell can be run, and none touches the rules that the report keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradtx_hf.evaluation import Report
from gradtx_hf.finetuning import load_language_model
from gradtx_hf.playground import split_rules
from gradtx_hf.studies.catalogue import STUDIES
from gradtx_hf.studies.cells import Clients, Study
from gradtx_hf.studies.client_lines import client_values
from gradtx_hf.studies.models import (
    MODELS,
    PRETRAINED,
    PRETRAINING_FILE,
    Pretraining,
    model_folder,
    pretrain_model,
)
from gradtx_hf.studies.pretrain_playground import Recipe, Stage
from gradtx_hf.studies.run_study import run_study
from gradtx_hf.studies.study_plan import render_plan
from gradtx_hf.studies.world import Place, curation_arguments, key_of, public_rules
from gradtx_hf.training import TranslatorArguments


def every_study() -> list[Study]:
    return list(STUDIES.values())


@pytest.mark.parametrize("study", every_study(), ids=lambda study: study.name)
def test_every_cell_can_be_curated_and_trained(study: Study, tmp_path: Path) -> None:
    for cell in study.cells:
        world, training = study.world_of(cell), study.training_of(cell)
        arguments = TranslatorArguments(
            store="store", output_dir=str(tmp_path), eval_strategy="no", use_cpu=True, **training
        )

        assert {world.source, world.target} <= set(MODELS)
        assert arguments.max_steps > 0
        assert arguments.objective == "functional" or world.num_target_runs is None or world.num_target_runs >= 108


@pytest.mark.parametrize("study", every_study(), ids=lambda study: study.name)
def test_the_plan_names_every_cell_and_its_cost(study: Study) -> None:
    plan = render_plan(study, study.cells, num_seeds=3)

    assert all(f"| {cell.name} |" in plan for cell in study.cells)
    assert "by 3 seeds. Nothing was run or written." in plan


def test_only_the_tables_score_the_reports_rules(tmp_path: Path) -> None:
    for study in every_study():
        is_table = study.name in ("functional", "dp_curve", "many_clients")
        assert study.clients.unseen == ("report" if is_table else "development")


@pytest.mark.parametrize("unseen", ["development", "report"])
def test_clients_are_of_the_rules_that_they_say(tmp_path: Path, unseen: str) -> None:
    clients = Clients(num_seen=3, num_unseen=2, unseen=unseen, num_private_lines=4, num_test_lines=4)  # type: ignore[arg-type]

    values = client_values(clients, Place(tmp_path, 5))

    split = split_rules("full", seed=5)
    assert {v["task"] for v in values if v["seen"]} <= {rule.name for rule in public_rules(5, 3)}
    assert {v["task"] for v in values if not v["seen"]} <= {rule.name for rule in getattr(split, unseen)}


def test_fewer_public_rules_are_the_first_of_more() -> None:
    assert public_rules(0, 108)[:9] == public_rules(0, 9)
    assert set(public_rules(0, 108)) == set(split_rules("full", seed=0).seen)
    assert public_rules(0, 108) != public_rules(1, 108)


def test_the_number_of_tasks_is_varied_with_equally_many_shadow_sets() -> None:
    study = STUDIES["num_tasks"]

    assert {study.world_of(cell).num_shadow_sets for cell in study.cells} == {432}


def test_smaller_stores_hold_the_first_shadow_sets_of_larger_ones(tmp_path: Path) -> None:
    study, place = STUDIES["num_pairs"], Place(tmp_path, 0)
    worlds = [study.world_of(cell) for cell in study.cells]

    few, many = (curation_arguments(world, place, num_workers=1) for world in (worlds[0], worlds[-1]))

    assert few.corpora == many.corpora
    assert few.num_shadow_sets * 8 == many.num_shadow_sets


def test_models_beside_the_embedded_pair_belong_to_the_studys_folder(tmp_path: Path) -> None:
    assert model_folder("source", tmp_path).joinpath("config.json").is_file()
    assert model_folder("source_small", tmp_path) == tmp_path / "models" / "source_small"
    assert not set(PRETRAINED) & {"source", "target"}


def test_a_model_that_a_study_pretrains_can_be_loaded_and_says_what_it_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (Stage(20, 4, 1e-3, hide_together=True), Stage(20, 4, 1e-3, hide_together=False))
    recipe = Recipe(hidden_size=8, intermediate_size=16, num_layers=1, initializer_range=0.2, stages=stages)
    monkeypatch.setitem(PRETRAINED, "tiny", recipe)

    pretrain_model(Pretraining("tiny", tmp_path / "tiny"))

    model, tokenizer = load_language_model(str(tmp_path / "tiny"))
    values = json.loads((tmp_path / "tiny" / PRETRAINING_FILE).read_text())
    assert values["num_parameters"] == model.num_parameters()
    assert 0 <= values["known_tag_exact_match"] <= 1
    assert len(tokenizer) == model.config.vocab_size


def test_a_key_depends_on_the_settings_alone() -> None:
    assert key_of({"a": 1, "b": (2, 3)}) == key_of({"b": [2, 3], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


@pytest.mark.long
def test_a_cell_at_its_own_size_takes_a_minute_or_so_and_learns(tmp_path: Path) -> None:
    report = run_study(STUDIES["decoding"], tmp_path / "out", cells=["autoregressive"], num_workers=2)

    values = Report.load(tmp_path / "out")
    methods = values.summary["seen"].methods
    assert report.failures == {}
    assert report.cells[0].results[0].values["seconds"]["training"] < 120
    assert methods["translated"].score.mean > methods["shuffled_input"].score.mean + 0.2
