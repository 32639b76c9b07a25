"""The study of full-weight updates at toy size: its whole way, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, OutputExistsError
from gradtx_hf.evaluation import Report
from gradtx_hf.lora.full_weights import load_weights
from gradtx_hf.playground import target_path
from gradtx_hf.studies.full_weights import render_full_weights_plan, run_full_weights_study
from gradtx_hf.studies.full_weights_runs import FullWeightSettings, SeedRun
from gradtx_hf.studies.tiny import tiny_full_weights
from gradtx_hf.studies.world import Place
from gradtx_hf.updates.store import UpdateStore


def settings() -> FullWeightSettings:
    tiny = tiny_full_weights()
    return replace(tiny, clients=replace(tiny.clients, num_seen=1, num_unseen=2), ranks=(2, 96))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    run_full_weights_study(folder, settings=settings(), command="the command")
    return folder


@pytest.mark.slow
def test_the_report_has_every_control_and_the_update_as_lora(folder: Path) -> None:
    report = Report.load(folder)

    assert report.command == "the command"
    assert [client.seen for client in report.clients] == [True, False, False]
    assert set(report.clients[1].scores) == {
        *("source_client", "target_untouched", "public_finetune", "shadow_mean", "nearest_shadow", "ridge"),
        *("shuffled_input", "translated", "ceiling", "lora_of_rank_2", "lora_of_rank_96"),
    }
    assert (folder / "report.png").is_file()
    assert set(report.seconds) == {"curation", "clients", "training", "scoring"}


@pytest.mark.slow
def test_a_lora_of_full_rank_does_what_the_weights_do(folder: Path) -> None:
    report = Report.load(folder)

    errors = {name: lora["error"] for name, lora in report.config["lora"].items()}
    assert errors["lora_of_rank_96"] < 1e-4 < errors["lora_of_rank_2"] < 1
    for client in report.clients:
        nats = client.nats_per_token
        assert nats["lora_of_rank_96"] == pytest.approx(nats["translated"], abs=1e-4)


@pytest.mark.slow
def test_tokens_are_differences_of_weights_layer_by_layer(folder: Path) -> None:
    store = UpdateStore.open(folder / "seed-0" / "store")

    assert store.target_layout.num_blocks == 4
    assert store.target_layout.block_dim == 2 * 96 * 96
    assert {name.rpartition(".")[2] for name in store.target_layout.shapes} == {"weight"}
    assert float(store.read("source", 0)[-1].abs().max()) > 0


@pytest.mark.slow
def test_a_translated_update_can_be_added_to_the_targets_weights(folder: Path) -> None:
    run = SeedRun(settings(), Place(folder, 0))
    update = load_weights(run.update_file("translated", 0))
    weights = run.sides["target"].model.state_dict()

    assert run.sides["target"].name == str(target_path())
    assert all(weights[name].shape == delta.shape for name, delta in update.items())
    assert all(bool(delta.isfinite().all()) for delta in update.values())


@pytest.mark.slow
def test_what_is_there_is_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((folder / "report.json").read_text())
    monkeypatch.setattr(torch.optim.AdamW, "step", None)  # whoever trains fails

    again = run_full_weights_study(folder, settings=settings())

    assert [client.scores for client in again.clients] == [client["scores"] for client in before["clients"]]


@pytest.mark.slow
def test_a_folder_of_other_settings_and_no_seed_are_refused(folder: Path) -> None:
    with pytest.raises(OutputExistsError, match="one of other settings"):
        run_full_weights_study(folder, settings=replace(settings(), ranks=(1,)))
    with pytest.raises(ConfigurationError, match="got seeds=0"):
        run_full_weights_study(folder, num_seeds=0)


def test_the_plan_says_what_it_costs() -> None:
    plan = render_full_weights_plan(num_seeds=2)
    assert "| source runs of the store | 108 | 60 |" in plan
    assert plan.endswith("By 2 seeds. Nothing was run or written.")
