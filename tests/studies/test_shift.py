"""The study of the shift, at toy size: the whole way on the embedded translator, its numbers, its refusals."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from gradtx_hf.cli.main import main
from gradtx_hf.errors import ConfigurationError, OutputExistsError
from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.playground import Rule, split_rules
from gradtx_hf.playground.world import LETTERS
from gradtx_hf.studies.shift import run_shift_study
from gradtx_hf.studies.shift_clients import Condition, ShiftStudySettings, shifted_clients, skewed_lines
from gradtx_hf.studies.shift_markdown import verdict
from gradtx_hf.studies.shift_results import ShiftPoint, ShiftStudyReport, correlations, of_series, rank_correlation
from tests.studies.toy import RECIPE


SETTINGS = ShiftStudySettings(
    num_pairs=2,
    unseen_quarters=(0, 2),
    letter_ratios=(),
    num_private_lines=60,
    num_parts=1,
    num_test_lines=4,
    num_ceiling_steps=4,
    public_lines_per_rule=1,
    max_rows=50,
    num_permutations=19,
    source_recipe=RECIPE,
    target_recipe=RECIPE,
)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shift") / "out"
    run_shift_study(folder, settings=SETTINGS, command="gradtx study shift --output-dir out")
    return folder


@pytest.mark.slow
def test_every_client_is_scored_beside_its_controls_and_measured(output: Path) -> None:
    values = json.loads((output / "report.json").read_text())
    text = (output / "report.md").read_text()

    assert len(values["clients"]) == len(values["shift"]) == 4
    names = {"source_client", "target_untouched", "shuffled_input", "translated", "ceiling"}
    assert all(set(client["scores"]) == names for client in values["clients"])
    assert all(0 <= point["auc"] <= 1 and point["input_distance"] > 0 for point in values["shift"])
    assert values["config"]["study"]["settings"]["num_pairs"] == 2
    assert Report.load(output).metric == "exact_match"
    assert all(f"{quarters / 4:.0%} of lines of an unseen rule" in text for quarters in (0, 2))
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_finished_study_is_not_run_again(output: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.glob("seed-0/*/client.json")}
    values = json.loads((output / "report.json").read_text())

    again = run_shift_study(output, settings=SETTINGS, command="gradtx study shift --output-dir out")

    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.to_json()["shift"] == values["shift"]


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(output: Path) -> None:
    with pytest.raises(OutputExistsError, match="another study, or one of other settings"):
        run_shift_study(output, settings=replace(SETTINGS, num_test_lines=5))


@pytest.mark.parametrize("num_pairs", [1, 13])
def test_pairs_that_would_have_no_partner_or_no_rule_are_refused(num_pairs: int) -> None:
    with pytest.raises(ConfigurationError, match=f"got num_pairs={num_pairs}, expected 2 to 12"):
        ShiftStudySettings(num_pairs=num_pairs)


def test_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got seeds=0"):
        run_shift_study(tmp_path / "out", num_seeds=0)


def test_no_client_has_a_rule_of_the_reports(tmp_path: Path) -> None:
    split = split_rules("full", seed=0)

    for seed in range(3):
        for client in shifted_clients(ShiftStudySettings(num_pairs=12), tmp_path, seed=seed):
            assert client.rules[0] in split.seen
            assert client.rules[1] in split.development


def test_every_line_follows_a_rule_and_no_input_comes_twice() -> None:
    first, second = Rule("reverse", 3), Rule("identity", 1)

    rows = skewed_lines([first, first, first, second], 400, letter_ratio=1.0, seed="lines")

    inputs = [row["prompt"][2:-1] for row in rows]
    of_second = sum(row["completion"] == second.apply(text) for row, text in zip(rows, inputs, strict=True))
    assert len(set(inputs)) == 400
    assert all(
        row["completion"] in (first.apply(text), second.apply(text)) for row, text in zip(rows, inputs, strict=True)
    )
    assert 70 <= of_second <= 130  # a quarter, give or take three standard deviations


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_letters_have_the_weights_that_the_ratio_says(ratio: float) -> None:
    rows = skewed_lines([Rule("identity", 0)], 2000, letter_ratio=ratio, seed="letters")

    counts = Counter("".join(row["completion"] for row in rows))
    weights = np.array([ratio**i for i in range(12)])
    shares = np.array([counts[letter] for letter in LETTERS]) / 12000
    assert np.abs(shares - weights / weights.sum()).max() < 0.03  # inputs that came before are drawn again


def test_rank_correlations_are_spearmans() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(5, size=40).astype(float), generator.normal(size=40)

    assert rank_correlation(first, second) == pytest.approx(float(spearmanr(first, second).statistic))
    assert rank_correlation(first, first) == pytest.approx(1.0)
    assert rank_correlation(first, -first) == pytest.approx(-1.0)
    assert rank_correlation(first, np.zeros(40)) is None


def points(gain_of_auc: list[tuple[float, float]], *, series: str = "rule") -> list[ShiftPoint]:
    """Clients of several pairs, each of a condition of its own, with these AUCs and gains."""
    return [
        ShiftPoint(
            condition=Condition(series, i % 5, 1.0),  # type: ignore[arg-type]
            pair=(0, i % 4),
            scores=ClientScores(f"task {i}", None, {"target_untouched": 0.0, "translated": gain, "ceiling": 1.0}),
            auc=auc,
            kl=auc,
            p_value=0.5,
            input_distance=1.0 + i,
            input_distance_limit=1.3,
        )
        for i, (auc, gain) in enumerate(gain_of_auc)
    ]


def verdict_of(found: list[ShiftPoint]) -> str:
    report = Report.from_clients(
        [point.scores for point in found], metric="exact_match", higher_is_better=True, seconds={}, config={}
    )
    return verdict(ShiftStudyReport(tuple(found), report, correlations(found))).splitlines()[0]


def test_the_verdict_says_what_the_interval_shows() -> None:
    falling = [(0.5 + i / 50, 1 - i / 20) for i in range(20)]
    shuffled = random.Random(3).sample([gain for _, gain in falling], 20)

    assert "foretells the gain: clients that lie farther recover less" in verdict_of(points(falling))
    assert "**misleads**" in verdict_of(points([(auc, 1 - gain) for auc, gain in falling]))
    assert "**does not foretell the gain**" in verdict_of(
        points([(auc, gain) for (auc, _), gain in zip(falling, shuffled, strict=True)])
    )
    assert "too few clients" in verdict_of(points(falling[:3]))
    assert "too few clients" in verdict_of(points([(0.5 + i / 50, 1.0) for i in range(20)]))


def test_series_of_letters_begin_with_letters_alike() -> None:
    found = points([(0.5, 1.0)] * 5) + points([(0.9, 0.5)] * 2, series="letters, unseen rule")

    series = of_series(found, "letters, unseen rule")

    assert [point.condition.unseen_quarters for point in series if point.condition.series == "rule"] == [4]
    assert len(series) == 3
    assert len(of_series(found, "all")) == 7


def test_a_client_without_a_gap_is_left_out() -> None:
    without = ClientScores("no gap", None, {"target_untouched": 1.0, "translated": 1.0, "ceiling": 1.0})
    found = points([(0.5 + i / 50, 1 - i / 20) for i in range(8)])

    rows = correlations([*found, replace(found[0], scores=without)])

    assert rows["all"]["auc"].num_clients == 8


def test_the_command_plans_it_and_knows_that_it_has_no_cells(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["study", "shift", "--plan"]) == 0
    assert "44 clients of 240 steps and as many ceilings of 240" in capsys.readouterr().out
    assert main(["study", "shift", "--cell", "a", "--output-dir", str(tmp_path / "out")]) == 1
    assert "got cell 'a' for study 'shift', it has none" in capsys.readouterr().err
