"""The study of the baselines, at toy size: the whole way on the embedded translator, its table, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gradtx_hf.cli.main import main
from gradtx_hf.errors import ConfigurationError, DataError, OutputExistsError
from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.evaluation.needs import NEEDS
from gradtx_hf.finetuning import load_samples
from gradtx_hf.playground import split_rules
from gradtx_hf.studies.baseline_clients import BaselineSettings, Kind, baseline_clients
from gradtx_hf.studies.baseline_methods import CLIENT_FILE
from gradtx_hf.studies.baseline_results import BaselinesReport, DecodingCost
from gradtx_hf.studies.baselines import run_baselines_study
from gradtx_hf.studies.baselines_markdown import methods_table, steps_saved, verdict
from gradtx_hf.studies.cells import World
from gradtx_hf.studies.readme_results import keep_baselines, render_results
from tests.studies.toy import RECIPE


SETTINGS = BaselineSettings(
    num_seen=2,
    num_unseen=2,
    num_private_lines=16,
    num_parts=2,
    num_test_lines=4,
    num_public_prompts=8,
    num_ceiling_steps=2,
    num_public_steps=2,
    world=World(
        num_rules=6,
        runs_per_rule=1,
        samples_per_set=8,
        num_snapshots=1,
        num_target_runs=None,
        source_recipe=RECIPE,
        target_recipe=RECIPE,
    ),
    best_recipe=RECIPE,
    weak_recipe=RECIPE,
    refinement_recipe={**RECIPE, "schedule": "constant"},
    refinement_steps=(0, 4),
    num_curve_lines=2,
)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines") / "out"
    run_baselines_study(folder, settings=SETTINGS, command="gradtx study baselines --output-dir out")
    return folder


@pytest.mark.slow
def test_every_method_is_scored_on_every_client_with_what_it_needs(output: Path) -> None:
    values = json.loads((output / "report.json").read_text())
    text = (output / "report.md").read_text()

    assert len(values["clients"]) == 4
    assert all(set(client["scores"]) == set(NEEDS) == set(values["needs"]) for client in values["clients"])
    assert Report.load(output).metric == "exact_match"
    assert values["decoding"]["three_flops"] == pytest.approx(1 + 2 * values["decoding"]["source_flops"])
    assert set(values["curves"]["unseen"]) == {"distilled", "distilled_same", "refined_mean", "refined_translation"}
    assert "| Proxy tuning (logits of three models) | adapter | 0 |" in text
    assert "| W2S on private inputs | private inputs | 4 | 1 |" in text
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_is_kept_is_what_was_found_and_the_readme_shows_it(output: Path, tmp_path: Path) -> None:
    kept = keep_baselines(output, root=tmp_path)

    values = json.loads((output / "report.json").read_text())
    assert json.loads(kept.read_text()) == values | {"command": ""}
    readme = render_results("<!-- baselines -->\nold\n<!-- end baselines -->\n", root=tmp_path)
    assert "old" not in readme
    assert methods_table(BaselinesReport.load(output)) in readme
    assert readme.count("\n> ") == 2  # a verdict of each group


@pytest.mark.slow
def test_another_report_is_none_of_this_study(output: Path, tmp_path: Path) -> None:
    values = json.loads((output / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({k: v for k, v in values.items() if k != "decoding"}))

    with pytest.raises(DataError, match="is none of study baselines: it lacks decoding or curves"):
        BaselinesReport.load(tmp_path)


@pytest.mark.slow
def test_a_finished_study_is_not_run_again_and_other_settings_are_refused(output: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.glob(f"seed-0/*/{CLIENT_FILE}")}
    values = json.loads((output / "report.json").read_text())

    again = run_baselines_study(output, settings=SETTINGS, command="gradtx study baselines --output-dir out")

    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads(json.dumps(again.to_json()))["clients"] == values["clients"]
    with pytest.raises(OutputExistsError, match="another study, or one of other settings"):
        run_baselines_study(output, settings=replace(SETTINGS, temperature=2.0))


def test_seeds_have_clients_of_their_own_and_three_of_them_all_of_the_reports_rules(tmp_path: Path) -> None:
    settings = BaselineSettings()
    split = split_rules("full", seed=0)

    clients = [client for seed in range(3) for client in baseline_clients(settings, tmp_path, seed=seed)]

    assert {client.rule for client in clients if not client.seen} == set(split.report)
    assert {client.rule for client in clients if client.seen} <= set(split.seen)
    assert len({client.home for client in clients}) == 36
    development = replace(settings, unseen="development").rules(seen=False)
    assert set(development) == set(split.development)


def test_private_halves_share_no_line_with_each_other_or_the_held_out(tmp_path: Path) -> None:
    client = baseline_clients(SETTINGS, tmp_path, seed=0)[0]
    kinds: tuple[Kind, ...] = ("private", "first", "second", "test")
    private, first, second, test = (
        set(load_samples([client.lines(SETTINGS, kind)], seed=0)["prompt"]) for kind in kinds
    )

    assert first | second == private
    assert not first & second
    assert not private & test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_unseen": 25}, "got num_seen=2 and num_unseen=25"),
        ({"num_seen": 1}, "got num_seen=1"),
        ({"refinement_steps": (0, 3)}, "expected rising numbers that end with the recipe's num_steps=4"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]


def found(**scores: float) -> BaselinesReport:
    """A report of two unseen clients that score alike."""
    base = dict.fromkeys(NEEDS, 0.0) | {"ceiling": 1.0, "translated": 0.9} | scores
    report = Report.from_clients(
        [ClientScores(task, False, base) for task in ("a", "b")],
        metric="exact_match",
        higher_is_better=True,
        seconds={},
        config={},
    )
    return BaselinesReport(report, DecodingCost(0.1, 1.2, 2.5), {})


def test_the_verdict_names_who_wins_and_at_what_price() -> None:
    first = verdict(found(), "unseen")
    beaten = verdict(found(ridge=0.95), "unseen")
    same = verdict(found(source_client=0.95), "unseen")
    dearer = verdict(found(proxy_tuning=0.95, w2s=0.92, source_best=0.97), "unseen")

    assert "0.900 exact match, is first among the methods with no private data" in first
    assert "higher price" not in first
    assert "others get less: source client (0.000), proxy tuning, same adapter (0.000)" in first
    assert "**Others get as much from the very adapter that is translated: source client (0.950)" in same
    assert "**ridge (0.950) did as well as the translated adapter (0.900) or better**" in beaten
    assert "proxy tuning (0.950; three models to decode with)" in dearer
    assert "(0.920; private inputs at the provider and the target fine-tuned for each client)" in dearer
    assert "a small model that does the task itself (0.970 when fine-tuned for itself" in dearer


def test_saved_steps_are_counted_where_the_other_starts_get_to_the_translation() -> None:
    curves = {
        "distilled": {0: 0.0, 10: 0.4, 20: 0.8},
        "refined_mean": {0: 0.0, 10: 0.1, 20: 0.2},
        "refined_translation": {0: 0.7, 10: 0.8, 20: 0.75},
    }

    text = steps_saved(curves)

    assert "The translation scores 0.700 before any step" in text
    assert "from zero after 20 steps and from the mean shadow update not within 20 steps" in text
    assert "change the translation's score by +0.050" in text


def test_the_command_plans_it_and_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "baselines", "--plan", "--seeds", "3"]) == 0
    assert "4 clients of seen rules and 8 of unseen ones, by 3 seeds" in capsys.readouterr().out
    assert main(["study", "--list"]) == 0
    assert "baselines" in capsys.readouterr().out
