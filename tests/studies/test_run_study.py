"""A whole study at toy size: all cells, resumed, with a failing cell, with cells that were not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, OutputExistsError
from gradtx_hf.evaluation import Report
from gradtx_hf.lora import load_adapter
from gradtx_hf.studies.cells import Cell, Study
from gradtx_hf.studies.client_lines import client_values
from gradtx_hf.studies.client_sets import ClientSet, aligned_states, noisy_states
from gradtx_hf.studies.run_study import run_study
from gradtx_hf.studies.world import Place
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import listing
from tests.studies.toy import NOISY, TOY


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    run_study(TOY, folder, command="the command")
    return folder


@pytest.fixture
def copied(toy: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished study; stores name their data by path, so only the stages after them may run."""
    return Path(shutil.copytree(toy, tmp_path / "out"))


def scores(values: Mapping[str, object]) -> list[Mapping[str, float]]:
    return [client["scores"] for client in values["clients"]]  # type: ignore[attr-defined, index]


def test_the_report_keeps_the_contract_of_every_report(toy: Path) -> None:
    values = json.loads((toy / "report.json").read_text())
    report = Report.load(toy)

    assert {"metric", "clients", "summary", "seconds", "config", "versions", "cells"} <= set(values)
    assert values["metric"] == {"name": "exact_match", "higher_is_better": True}
    assert values["command"] == "the command"
    assert [client["seen"] for client in values["clients"]] == [True, True, False, False]
    assert {"pgr", "gain_recovered", "nats_per_token"} <= set(values["clients"][0])
    assert set(scores(values)[0]) == {
        *("source_client", "target_untouched", "public_finetune", "shadow_mean", "nearest_shadow", "ridge"),
        *("shuffled_input", "translated", "paper_objective", "ceiling"),
    }
    assert report.config["main_cell"] == "functional"
    assert report.config["num_target_runs"] == 3


def test_every_cell_has_its_own_scores_and_the_controls(toy: Path) -> None:
    values = json.loads((toy / "report.json").read_text())

    assert [cell["name"] for cell in values["cells"]] == ["functional", "paper_objective"]
    for cell in values["cells"]:
        assert cell["status"] == "done"
        assert cell["command"] is None
        assert {"translated", "shuffled_input", "ceiling"} <= set(cell["summary"]["unseen"])
    own = values["cells"][1]["summary"]["all"]["translated"]["nats_per_token"]["mean"]
    assert values["summary"]["all"]["methods"]["paper_objective"]["nats_per_token"]["mean"] == own


def test_the_functional_cell_learns_from_all_runs_and_the_papers_from_pairs(toy: Path) -> None:
    updates = {
        cell["name"]: cell["num_training_updates"] for cell in json.loads((toy / "report.json").read_text())["cells"]
    }

    assert updates == {"functional": [6 * 2], "paper_objective": [3 * 2]}


def test_the_markdown_says_the_question_the_paper_and_all_rows(toy: Path) -> None:
    text = (toy / "report.md").read_text()

    for part in (
        "Does it run?",
        "Compare the paper's Table 0.",
        "A note.",
        "| Functional |",
        "| Paper's |",
        "*Ceiling",
    ):
        assert part in text
    assert "3 target runs" in text
    assert "not run" not in text


def test_the_plot_is_a_png(toy: Path) -> None:
    assert (toy / "report.png").read_bytes().startswith(b"\x89PNG")


def test_cells_of_one_world_share_the_store_the_clients_and_nothing_else(toy: Path) -> None:
    home = toy / "seed-0"

    assert len(list((home / "stores").iterdir())) == 1
    assert len(list((home / "clients").iterdir())) == 1
    assert len(list((home / "translators").iterdir())) == 2


def test_a_finished_study_is_not_done_again(toy: Path) -> None:
    before = {n: t for n, t in listing(toy).items() if "report" not in n and "seconds" not in n and n != "."}

    report = run_study(TOY, toy)

    assert {name: time for name, time in listing(toy).items() if name in before} == before
    assert report.failures == {}


def test_an_interrupted_study_goes_on_with_what_is_missing(copied: Path) -> None:
    before = json.loads((copied / "report.json").read_text())
    kept = copied / "cells" / "seed-0" / "functional" / "result.json"
    time = kept.stat().st_mtime_ns
    shutil.rmtree(copied / "cells" / "seed-0" / "paper_objective")

    report = run_study(TOY, copied)

    assert kept.stat().st_mtime_ns == time
    assert scores(report.to_json()) == scores(before)


def test_a_result_of_other_settings_counts_as_not_run(copied: Path) -> None:
    path = copied / "cells" / "seed-0" / "functional" / "result.json"
    values = json.loads(path.read_text())
    values["settings"]["training"]["max_steps"] = 999
    path.write_text(json.dumps(values))

    report = run_study(TOY, copied, cells=["paper_objective"])

    assert [cell.status for cell in report.cells] == ["not run", "done"]


def test_a_cell_that_was_not_run_says_so_with_its_command(copied: Path) -> None:
    shutil.rmtree(copied / "cells" / "seed-0" / "paper_objective")

    report = run_study(TOY, copied, cells=["functional"])

    command = f"gradtx study toy --output-dir {copied} --cell paper_objective"
    assert report.to_json()["cells"][1]["status"] == "not run"
    assert report.to_json()["cells"][1]["command"] == command
    text = (copied / "report.md").read_text()
    assert f"- Paper's: not run (seed 0). Run it: `{command}`" in text
    assert "| Paper's (not run) |" in text


@pytest.mark.slow
def test_a_failing_cell_leaves_the_others_and_is_named(copied: Path) -> None:
    study = replace(TOY, cells=(Cell("broken", "Broken", training={"learning_rate": "fast"}), *TOY.cells))
    study = replace(study, cells=(*study.cells, Cell("longer", "Longer", training={"max_steps": 5})), main="functional")

    report = run_study(study, copied, cells=["broken", "longer"])

    assert list(report.failures) == ["broken"]
    assert "\n" not in report.failures["broken"]
    assert [cell.status for cell in report.cells] == ["failed", "done", "done", "done"]
    assert "- Broken: **failed**, seed 0: " in (copied / "report.md").read_text()


@pytest.mark.slow
def test_two_seeds_split_the_rules_anew_and_are_pooled(copied: Path) -> None:
    report = run_study(TOY, copied, cells=["functional"], num_seeds=2)

    values = report.to_json()
    assert [client["study_seed"] for client in values["clients"]] == [0] * 4 + [1] * 4
    assert values["config"]["study_seeds"] == [0, 1]
    rules = [[client["task"] for client in values["clients"] if client["study_seed"] == seed] for seed in (0, 1)]
    assert rules[0] != rules[1]
    assert [cell.status for cell in report.cells] == ["done", "partly done"]
    assert "Paper's (seeds 0)" in (copied / "report.md").read_text()


def test_without_any_result_there_is_a_report_all_the_same(tmp_path: Path) -> None:
    study = replace(TOY, cells=(Cell("broken", "Broken", world={"num_snapshots": 0}),))

    report = run_study(study, tmp_path / "out")

    assert report.to_json()["clients"] == []
    assert "num_snapshots=0" in report.failures["broken"]
    assert "No cell has a result." in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "report.png").exists()


def test_the_folder_of_another_study_is_not_written_into(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="holds study 'toy', got 'noisy'"):
        run_study(NOISY, toy)
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputExistsError, match="not empty"):
        run_study(TOY, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": ["nonsense"]}, "got cell 'nonsense', expected one of study 'toy': functional, paper_objective"),
        ({"num_seeds": 0}, "got seeds=0, expected at least 1"),
        ({"num_workers": 0}, "got num_workers=0, expected at least 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run_study(TOY, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_along_an_axis_draws_lines_and_noise_shares_the_translator(tmp_path: Path) -> None:
    report = run_study(NOISY, tmp_path / "out")

    values = report.to_json()
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert [cell["x"] for cell in values["cells"]] == ["0", "100"]
    assert len(list((tmp_path / "out" / "seed-0" / "translators").iterdir())) == 1
    nats = [cell["summary"]["all"]["translated"]["nats_per_token"]["mean"] for cell in values["cells"]]
    assert nats[1] != pytest.approx(nats[0], abs=1e-6)  # a translator that learned nothing may gain or lose by noise


def test_client_noise_has_the_spread_that_it_says(toy: Path) -> None:
    place = Place(toy, 0)
    study, cell = TOY, TOY.cells[0]
    clients = ClientSet(
        folder=place.clients(study, cell),
        sources=place.sources(study, cell),
        ceilings=place.ceilings(study, cell),
        public_finetune=place.public_finetune(study, cell),
        store=place.store(study.world),
        values=tuple(client_values(study.clients, place)),
    )
    states, store = aligned_states(clients), UpdateStore.open(clients.store)
    start = load_adapter(clients.init("source"))

    noisy = noisy_states(clients, states, noise=3.0, seed=0)
    again = noisy_states(clients, states, noise=3.0, seed=0)

    name = next(name for name in start.tensors if name.endswith("lora_A"))
    shadows = [store.read("source", k) for k in range(store.num_shadow_sets)]
    n, slot = store.source_layout.slots[name]
    own = torch.cat(shadows)[:, n, slot.offset : slot.offset + slot.num_elements]
    added = torch.stack([after[name] - before[name] for after, before in zip(noisy, states, strict=True)])
    expected = 3.0 * own.var(dim=0, unbiased=False).mean().sqrt()
    assert float(added.std()) == pytest.approx(float(expected), rel=0.1)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(noisy, again, strict=True))


def study_with(**changes: object) -> Study:
    return replace(TOY, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": (Cell("translated", "x"),)}, "got cell 'translated' in study 'toy'"),
        ({"cells": (Cell("a", "x"), Cell("a", "y"))}, "expected different names"),
        ({"cells": (Cell("A b", "x"),)}, "snake case"),
        ({"main": "nobody"}, "got main='nobody'"),
        ({"cells": (Cell("a", "x", world={"rules": 3}),)}, "got 'rules' in cell 'a'"),
        ({"cells": (Cell("a", "x", training={"store": "s"}),)}, "got 'store' in cell 'a'"),
        ({"cells": (Cell("a", "x", world={"num_rules": 1}),)}, "got num_rules=1 in cell 'a', expected at least the 2"),
    ],
)
def test_a_study_that_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        study_with(**changes)
