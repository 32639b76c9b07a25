"""Studies whose cells have clients of their own: private ones, several in one translation, mixtures of rules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from gradtx_hf.client import fine_tune_client
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import DataSource, FineTuningRecipe, PrivacySettings
from gradtx_hf.finetuning.data import load_examples
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground import make_lines, split_rules, translator_path
from gradtx_hf.playground.recipes import source_recipe
from gradtx_hf.studies.cells import Cell, Clients, Study
from gradtx_hf.studies.client_lines import client_values, dirichlet_shares
from gradtx_hf.studies.client_sets import ClientSet, aligned_states, team_states
from gradtx_hf.studies.dp_curve import BUDGETS, DP_CURVE, NO_BUDGET, NOISY_SHADOWS
from gradtx_hf.studies.many_clients import MANY_CLIENTS
from gradtx_hf.studies.readme_results import keep_cells, render_results
from gradtx_hf.studies.results import read_result
from gradtx_hf.studies.run_study import run_study
from gradtx_hf.studies.study_plan import render_plan
from gradtx_hf.studies.world import Place
from gradtx_hf.training import TranslatorArguments
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.store import UpdateStore
from tests.studies.toy import TOY, TRAINING


TOY_PRIVACY = {"noise_multiplier": 1.0, "delta": 1e-3, "max_grad_norm": 0.5}
TEAM = {"num_members": 2, "num_private_lines": 8, "num_test_lines": 4}
FOUR = {"num_seen": 2, "num_unseen": 2, "num_private_lines": 8, "num_test_lines": 2}
TEAMS = Study(
    name="teams",
    title="Teams",
    question="Do they run?",
    training=TRAINING,
    world=TOY.world,
    clients=replace(TOY.clients, num_unseen=1, num_seen=1, num_ceiling_steps=2),
    main="two_mean",
    cells=(
        Cell("two_mean", "Two, mean", clients=TEAM, x="8", series="plain", panel="two"),
        Cell("two_sum", "Two, sum", clients={**TEAM, "aggregation": "sum"}, x="∞", series="plain", panel="two"),
        Cell("private", "Private", clients={"privacy": TOY_PRIVACY}, x="8", series="plain", panel="one"),
        Cell(
            "noisy_shadows",
            "Private, noisy shadow runs",
            world={"shadow_recipe": {"row_noise": [0.5]}},
            clients={"privacy": TOY_PRIVACY},
            x="8",
            series="noisy",
            panel="one",
        ),
        Cell(
            "own_tasks",
            "A rule each",
            clients={**FOUR, "num_members": 2, "has_own_tasks": True},
            x="8",
            series="plain",
            panel="several",
        ),
        Cell("mixtures", "Mixtures", clients={**FOUR, "num_mixed_rules": 2}, x="∞", series="plain", panel="several"),
    ),
    x_axis="ε",
    methods_on_axis=DP_CURVE.methods_on_axis,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teams") / "out"
    report = run_study(TEAMS, folder)
    assert report.failures == {}
    return folder


def load_source(values: dict[str, str]) -> list[tuple[str, str]]:
    return [(row["prompt"], row["completion"]) for row in load_examples(DataSource.from_dict(values))]


def client_set(folder: Path, cell: Cell) -> ClientSet:
    place, settings = Place(folder, 0), TEAMS.clients_of(cell)
    return ClientSet(
        folder=place.clients(TEAMS, cell),
        sources=place.sources(TEAMS, cell),
        ceilings=place.ceilings(TEAMS, cell),
        public_finetune=place.public_finetune(TEAMS, cell),
        store=place.store(TEAMS.world),
        values=tuple(client_values(settings, place)),
        num_members=settings.num_members,
        aggregation=settings.aggregation,
    )


@pytest.mark.slow
def test_clients_of_one_rule_are_one_row_and_share_a_ceiling(finished: Path) -> None:
    values = json.loads((finished / "report.json").read_text())

    assert [client["seen"] for client in values["clients"]] == [True, False]
    assert {"source_client", "source_aggregate", "translated", "two_sum"} - set(values["clients"][0]["scores"]) == {
        "two_sum"  # it reads the same adapters in another way, so it is no rival on them
    }
    assert len(list(client_set(finished, TEAMS.cells[0]).ceilings.glob("0*"))) == 2


@pytest.mark.slow
def test_cells_that_aggregate_otherwise_share_adapters_and_ceilings(finished: Path) -> None:
    home = finished / "seed-0"

    assert len(list((home / "sources").iterdir())) == 4  # of the two, the private one, the four, the mixtures
    assert len(list((home / "ceilings").iterdir())) == 4
    assert len(list((home / "clients").iterdir())) == 5
    assert len(list((home / "public").iterdir())) == 1
    assert len(list((home / "stores").iterdir())) == 2


@pytest.mark.slow
def test_what_is_translated_is_the_aggregate_of_the_members(finished: Path) -> None:
    clients = client_set(finished, TEAMS.cells[1])
    start = load_adapter(clients.init("source"))
    aligned = aligned_states(clients)

    found = team_states(clients, aligned)

    for team, state in zip(clients.teams, found, strict=True):
        for name, tensor in state.items():
            moved = sum(aligned[i][name] - start.tensors[name] for i in team.members)
            assert float((tensor - start.tensors[name] - moved).abs().max()) < 1e-6


@pytest.mark.slow
def test_private_clients_say_what_they_spent_and_the_ledger_is_not_beside_it(finished: Path) -> None:
    homes = client_set(finished, TEAMS.cells[2]).homes

    for home in homes:
        statement = json.loads((home / "privacy.json").read_text())
        assert statement["noise_multiplier"] == 1.0
        assert statement["total"]["num_runs"] == 1
        assert not (home / "ledger.json").exists()


@pytest.mark.slow
def test_noisy_shadow_runs_are_in_the_plan_and_in_what_the_translator_declares(finished: Path) -> None:
    place = Place(finished, 0)
    cell = TEAMS.cell("noisy_shadows")

    noisy, plain = (UpdateStore.open(place.store(TEAMS.world_of(TEAMS.cell(n)))) for n in ("noisy_shadows", "private"))
    declared = json.loads((place.translator(TEAMS, cell) / "training.json").read_text())["store"]["source"]["recipe"]

    assert noisy.plan["source"]["recipe"]["row_noise"] == [0.5] == declared["row_noise"]
    assert plain.plan["source"]["recipe"]["row_noise"] == []
    assert not (noisy.read("source", 0) == plain.read("source", 0)).all()


@pytest.mark.slow
def test_the_report_has_the_controls_of_each_cell_and_the_curves(finished: Path) -> None:
    text = (finished / "report.md").read_text()

    assert "## Controls of each cell" in text
    assert "| Two, mean | seen |" in text
    assert (finished / "report.png").read_bytes().startswith(b"\x89PNG")
    cells = json.loads((finished / "report.json").read_text())["cells"]
    assert [cell["off_the_map"][0]["of"] for cell in cells] == [2, 2, 2, 2, 2, 4]
    assert cells[0]["changes"]["clients"] == TEAM


@pytest.mark.slow
def test_the_readmes_curve_has_the_source_client_and_every_series_by_place(finished: Path, tmp_path: Path) -> None:
    keep_cells(finished, root=tmp_path)

    text = render_results("<!-- curve: teams -->\nold\n<!-- end curve -->", root=tmp_path)

    lines = text.splitlines()
    heads = ["two: source client", "two: plain", "one: source client", "one: plain", "one: noisy"]
    assert lines[1].split(" | ")[1:6] == heads
    assert [line.split(" | ")[0] for line in lines[3:5]] == ["| 8", "| ∞"]
    assert lines[4].split(" | ")[3:6] == ["-", "-", "-"]
    assert "old" not in text


@pytest.mark.slow
def test_a_finished_study_of_private_clients_is_not_done_again(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "seed-0").rglob("*.safetensors")}

    report = run_study(TEAMS, finished)

    assert report.failures == {}
    assert {path: path.stat().st_mtime_ns for path in (finished / "seed-0").rglob("*.safetensors")} == before


def test_members_of_one_rule_share_no_line(tmp_path: Path) -> None:
    clients = Clients(num_seen=1, num_unseen=1, num_members=3, num_private_lines=9, num_test_lines=1)

    values = client_values(clients, Place(tmp_path, 0))

    assert [value["task"] for value in values[:3]] == [values[0]["task"]] * 3
    rows = []
    for value in values[:3]:
        for part, expected in (("train", 9), ("test", 1)):
            found = load_source(value[part])
            assert len(found) == expected
            rows += found
    assert len(set(rows)) == 30
    assert len({value["seed"] for value in values[:3]}) == 3


def test_clients_with_tasks_of_their_own_have_a_rule_each(tmp_path: Path) -> None:
    clients = Clients(num_seen=3, num_unseen=3, num_members=3, has_own_tasks=True, num_private_lines=4)

    values = client_values(clients, Place(tmp_path, 0))
    teams = ClientSet(*[tmp_path] * 5, tuple(values), num_members=3).teams

    assert len({value["task"] for value in values}) == 6
    assert [team.members for team in teams] == [(0, 1, 2), (3, 4, 5)]
    assert teams[0].rows == ((0,), (1,), (2,))


def test_a_mixture_has_the_shares_that_its_name_says(tmp_path: Path) -> None:
    clients = Clients(num_seen=3, num_unseen=3, num_mixed_rules=3, num_private_lines=180, num_test_lines=20)

    value = client_values(clients, Place(tmp_path, 0))[0]

    rows = load_source(value["train"]) + load_source(value["test"])
    rules = {rule.name: rule for rule in split_rules("full", seed=0).seen}
    for part in value["task"].split(", "):
        share, name = part.split(" ", 1)
        hits = sum(rules[name].apply(prompt[2:-1]) == completion for prompt, completion in rows)
        assert hits / len(rows) == pytest.approx(float(share.rstrip("%")) / 100, abs=0.011)


@pytest.mark.slow
def test_clients_of_several_rules_are_scored_each_on_its_own_lines(finished: Path) -> None:
    place = Place(finished, 0)
    own_tasks, mixtures = (read_result(TEAMS, cell, place) for cell in TEAMS.cells[-2:])

    assert own_tasks is not None
    assert mixtures is not None
    for result in (own_tasks, mixtures):
        assert [client.seen for client in result.clients] == [True, True, False, False]
    assert len({client.task for client in own_tasks.clients}) == 4
    assert all("source_aggregate" in client.scores and "translated" in client.scores for client in own_tasks.clients)
    assert all("% " in client.task for client in mixtures.clients)
    num_ceilings = [len(list(client_set(finished, cell).ceilings.glob("0*"))) for cell in TEAMS.cells[-2:]]
    assert num_ceilings == [2, 4]  # one of each team, one of each mixture


def test_dirichlet_shares_are_even_for_large_and_of_one_rule_for_small_concentrations() -> None:
    even = [dirichlet_shares(3, alpha=1000.0, seed=str(i)) for i in range(20)]
    single = [dirichlet_shares(3, alpha=0.01, seed=str(i)) for i in range(20)]

    assert all(sum(shares) == pytest.approx(1.0) for shares in even + single)
    assert all(max(shares) < 0.4 for shares in even)
    assert sum(max(shares) > 0.95 for shares in single) >= 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_members": 5, "has_own_tasks": True}, "got 12 seen and 12 unseen rules for translations of 5 clients"),
        ({"num_members": 2, "num_mixed_rules": 2}, "expected one of the two"),
        ({"privacy": {"epsilon": 1, "sigma": 1}}, "unknown privacy key 'sigma'"),
        ({"privacy": {"epsilon": 1}, "num_parts": 4}, "got num_parts=4 with privacy"),
    ],
)
def test_clients_that_do_not_fit_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Clients(**options)  # type: ignore[arg-type]


def test_a_cell_cannot_change_what_clients_do_not_have() -> None:
    with pytest.raises(ConfigurationError, match="got 'epsilon' in cell 'a'"):
        replace(TEAMS, cells=(Cell("a", "x", clients={"epsilon": 1}),), main="")


def test_the_dp_curve_has_every_budget_by_every_translator_in_both_settings() -> None:
    found = {(cell.panel, cell.series, cell.x) for cell in DP_CURVE.cells}

    assert len(found) == len(DP_CURVE.cells) == 2 * 3 * 7
    for cell in DP_CURVE.cells:
        clients, privacy = DP_CURVE.clients_of(cell), cell.clients["privacy"]
        assert privacy == (
            {} if cell.x == NO_BUDGET else {"epsilon": float(cell.x), "delta": 1e-5, "max_grad_norm": 0.5}
        )
        assert cell.x in (*BUDGETS, NO_BUDGET)
        assert 0 <= 8192 - clients.num_members * clients.num_private_lines < 5
        assert DP_CURVE.world_of(cell).shadow_recipe == (NOISY_SHADOWS if "noisy" in cell.series else {})
        assert DP_CURVE.control_world_of(cell) == DP_CURVE.world


def test_the_five_of_many_clients_keep_a_tenth_for_scoring() -> None:
    for cell in MANY_CLIENTS.cells:
        clients = MANY_CLIENTS.clients_of(cell)
        if clients.num_members == 5:
            held_out = clients.num_test_lines / (clients.num_test_lines + clients.num_private_lines)
            assert held_out == pytest.approx(0.1, abs=0.003)
            assert clients.num_members * (clients.num_private_lines + clients.num_test_lines) == 2560
        TranslatorArguments(store="s", output_dir="o", eval_strategy="no", use_cpu=True, **MANY_CLIENTS.training)


def test_the_plan_counts_private_clients_and_shared_ceilings_once() -> None:
    plan = render_plan(TEAMS, TEAMS.cells, num_seeds=1)

    assert "| clients | 12 | 4 |" in plan
    assert "| private clients | 2 | 4 |" in plan
    assert "| ceilings | 10 | 2 |" in plan
    assert "| public fine-tunes | 1 | 4 |" in plan


@pytest.mark.slow
def test_the_embedded_translator_sees_that_a_clients_update_was_made_with_noise(tmp_path: Path) -> None:
    rule = split_rules("full", seed=0).seen[0]
    lines = Dataset.from_list(make_lines([rule], 512, seed="private"))
    recipe = FineTuningRecipe.from_dict(source_recipe() | {"batch_size": 64})

    fine_tune_client(
        translator_path(),
        lines,
        recipe=recipe,
        output_dir=tmp_path / "private",
        seed=1,
        privacy=PrivacySettings(noise_multiplier=4.0, max_grad_norm=0.5),
        work_dir=tmp_path / "ledger",
    )

    report = PeftTranslator.from_pretrained(translator_path()).translate(tmp_path / "private").report
    assert report["adapters"][0]["privacy"]["noise_multiplier"] == 4.0
    assert report["input_distance"] > 1.2 * report["input_distance_limit"]
    assert any("lies off the map" in line for line in report["warnings"])
