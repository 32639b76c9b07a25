"""Summary, report.json, report.md and report.png."""

from __future__ import annotations

import builtins
import json
import logging
import math
import re
import sys
from pathlib import Path

import pytest

from gradtx_hf.errors import DataError, MissingExtraError, MissingFileError
from gradtx_hf.evaluation import (
    METHODS,
    ClientScores,
    Report,
    render_markdown,
    save_report,
    summarise,
)
from gradtx_hf.evaluation.headline import headline
from gradtx_hf.evaluation.methods import ordered_methods
from tests.evaluation.reports import bits_report, rules_report


def report_of(*scores: dict[str, float | None], seen: bool | None = True, higher_is_better: bool = True) -> Report:
    return Report.from_clients(
        [ClientScores(f"task {n}", seen, values) for n, values in enumerate(scores)],
        metric="exact_match",
        higher_is_better=higher_is_better,
        seconds={},
        config={},
    )


# summary


def test_means_are_over_the_clients_of_a_group() -> None:
    clients = [
        ClientScores("a", True, {"translated": 0.8, "target_untouched": 0.0, "ceiling": 1.0, "source_client": 0.6}),
        ClientScores("b", True, {"translated": 0.4, "target_untouched": 0.2, "ceiling": 0.8, "source_client": 0.2}),
        ClientScores("c", False, {"translated": 0.1, "target_untouched": 0.0, "ceiling": 0.5}),
    ]

    summary = summarise(clients, higher_is_better=True)

    assert list(summary) == ["all", "seen", "unseen"]
    seen = summary["seen"]
    assert (seen.num_clients, seen.methods["translated"].score.mean) == (2, pytest.approx(0.6))
    assert seen.gain_recovered.value == pytest.approx((0.6 - 0.1) / (0.9 - 0.1))
    assert seen.pgr.value == pytest.approx((0.6 - 0.4) / (0.9 - 0.4))
    assert seen.methods["source_client"].gain_recovered.value == pytest.approx((0.4 - 0.1) / (0.9 - 0.1))
    assert summary["unseen"].pgr.reason == "no client has a score of the source client"
    assert summary["unseen"].methods["translated"].score.low is None


def test_intervals_hold_the_mean_and_are_the_same_every_time() -> None:
    clients = rules_report().clients

    first, second = (summarise(clients, higher_is_better=True) for _ in range(2))

    assert first == second
    score = first["seen"].methods["translated"].score
    assert score.low is not None
    assert score.high is not None
    assert 0 < score.high - score.low < 0.12
    assert score.low < score.mean < score.high


def test_intervals_are_over_tasks_however_many_seeds_each_has() -> None:
    scores = [{"translated": t, "target_untouched": 0.1, "ceiling": 0.9} for t in (0.2, 0.5, 0.6, 0.8)]
    once = [ClientScores(f"task {n}", True, values) for n, values in enumerate(scores)]
    often = [ClientScores(client.task, True, client.scores, seed=seed) for seed in range(3) for client in once]

    alone, repeated = (summarise(clients, higher_is_better=True)["seen"] for clients in (once, often))

    assert (repeated.num_clients, repeated.num_tasks) == (12, 4)
    for name in ("score", "lead_of_translated", "gain_recovered"):
        first, second = (getattr(group.methods["translated"], name) for group in (alone, repeated))
        assert (second.low, second.high) == pytest.approx((first.low, first.high))
    lead, again = (group.methods["target_untouched"].lead_of_translated for group in (alone, repeated))
    assert lead is not None
    assert again is not None
    assert (again.low, again.high) == pytest.approx((lead.low, lead.high))
    assert again.high - again.low > 0.3  # type: ignore[operator]


def test_a_resampled_task_brings_all_its_clients() -> None:
    scores = {"a": [0.0, 0.0, 0.0], "b": [1.0]}
    clients = [ClientScores(task, None, {"translated": s}) for task, values in scores.items() for s in values]

    score = summarise(clients, higher_is_better=True)["all"].methods["translated"].score

    # draws are a and a, a and b, b and b: means 0, 1/4 and 1, of clients, not of tasks
    assert (score.mean, score.low, score.high) == (0.25, 0.0, 1.0)
    assert score.num_clients == 4


def test_seeds_of_one_task_give_no_interval() -> None:
    values = [{"translated": t, "target_untouched": 0.0, "ridge": 0.1, "ceiling": 0.9} for t in (0.5, 0.7)]
    report = Report.from_clients(
        [ClientScores("a", True, scores, seed=seed) for seed, scores in enumerate(values)],
        metric="exact_match",
        higher_is_better=True,
        seconds={},
        config={},
    )

    group = report.summary["seen"]

    assert (group.num_clients, group.num_tasks) == (2, 1)
    assert group.methods["translated"].score.low is None
    assert group.gain_recovered.value is not None
    assert group.gain_recovered.low is None
    assert "ridge by 0.500; one task, so without an interval." in headline(report, "seen")


def test_leads_are_paired_by_client_and_positive_is_better_in_both_directions() -> None:
    scores = [{"translated": 1.0 + n, "ridge": 1.5 + n} for n in range(6)]

    higher = report_of(*scores).summary["all"].methods["ridge"].lead_of_translated
    lower = report_of(*scores, higher_is_better=False).summary["all"].methods["ridge"].lead_of_translated

    assert higher is not None
    assert lower is not None
    assert (higher.mean, higher.low, higher.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert (lower.mean, lower.low, lower.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_gap_whose_interval_contains_zero_is_no_gap() -> None:
    ceilings = [0.9, 0.1, 0.9, 0.1, 0.6]

    summary = report_of(*({"translated": 0.5, "target_untouched": 0.5, "ceiling": c} for c in ceilings)).summary

    assert summary["all"].gain_recovered.value is None
    assert "contains 0" in str(summary["all"].gain_recovered.reason)


def test_no_clients_are_refused() -> None:
    with pytest.raises(DataError, match="no client"):
        summarise([], higher_is_better=True)


def test_methods_keep_the_tables_order_and_others_come_before_the_translated_adapter() -> None:
    names = ordered_methods(["ceiling", "w2s", "translated", "source_client", "ridge", "w2s"])

    assert names == ["source_client", "ridge", "w2s", "translated", "ceiling"]


# report.json


def test_json_keeps_the_contract() -> None:
    values = rules_report().to_json()

    assert {"metric", "clients", "summary", "seconds", "config", "versions"} <= set(values)
    assert values["metric"] == {"name": "exact_match", "higher_is_better": True}
    client = values["clients"][0]
    assert {"task", "seen", "scores", "pgr", "gain_recovered"} <= set(client)
    assert set(METHODS) == set(client["scores"])
    s = client["scores"]
    assert client["pgr"] == pytest.approx((s["translated"] - s["source_client"]) / (s["ceiling"] - s["source_client"]))
    assert {"python", "torch", "transformers", "gradtx-hf"} <= set(values["versions"])


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    client = ClientScores("a", None, {"translated": math.nan, "target_untouched": 1.0, "ceiling": math.inf})
    report = Report.from_clients(
        [client],
        metric="bits_per_character",
        higher_is_better=False,
        seconds={"training": math.inf},
        config={"rates": [math.nan, 1.0], "folder": tmp_path},
    )

    save_report(report, tmp_path)

    values = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert values["clients"][0]["scores"] == {"translated": None, "target_untouched": 1.0, "ceiling": None}
    assert values["clients"][0]["gain_recovered"] is None
    assert values["clients"][0]["reasons"]["gain_recovered"] == "there is no score of the translated adapter"
    assert values["config"] == {"rates": [None, 1.0], "folder": str(tmp_path)}
    assert values["seconds"] == {"training": None}


@pytest.mark.parametrize("make", [rules_report, bits_report])
def test_a_report_reads_back_as_it_was(make: type[Report], tmp_path: Path) -> None:
    report = make()

    save_report(report, tmp_path)

    assert Report.load(tmp_path / "report.json") == report
    assert render_markdown(Report.load(tmp_path)) == render_markdown(report)


def test_loading_refuses_what_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("text")
    (tmp_path / "other.json").write_text('{"clients": [{}]}')

    with pytest.raises(MissingFileError, match=r"no report '.*report\.json'"):
        Report.load(tmp_path)
    with pytest.raises(DataError, match="not JSON"):
        Report.load(tmp_path / "text.json")
    with pytest.raises(DataError, match="no report"):
        Report.load(tmp_path / "other.json")


# report.md


def test_headline_of_a_translation_that_leads() -> None:
    text = headline(rules_report(), "unseen")

    assert text.startswith("Unseen tasks (6 clients): the translated adapter scores 0.858 exact match")
    assert "the best control, ridge, 0.057" in text
    assert "It leads every control, ridge by 0.80" in text
    assert "nothing" not in text


def test_headline_says_that_the_clients_adapter_added_nothing() -> None:
    text = headline(bits_report(), "all")

    assert "**The client's adapter added nothing beyond public fine-tune (2.072)" in text
    assert "leads" not in text


@pytest.mark.parametrize(
    ("control", "sentence"),
    [
        ("public_finetune", "The client's adapter added nothing beyond public fine-tune (0.500)"),
        ("shadow_mean", "The client's adapter added nothing beyond mean shadow (0.500)"),
        ("nearest_shadow", "The client's adapter added nothing beyond nearest shadow (0.500)"),
        ("shuffled_input", "The client's adapter added nothing beyond shuffled input (0.500)"),
        ("ridge", "The translator added nothing beyond ridge (0.500)"),
        ("w2s", "The translator added nothing beyond W2S on private inputs (0.500)"),
        ("other_way", "The translator added nothing beyond other way (0.500)"),
        ("target_untouched", "Translation did not help: target untouched (0.500)"),
        ("source_client", "Nothing was gained over the client's own small model"),
    ],
)
def test_a_tie_is_told_as_what_it_means(control: str, sentence: str) -> None:
    text = headline(report_of({"translated": 0.5, control: 0.5}), "seen")

    assert sentence in text


def test_a_lead_that_may_be_chance_is_told() -> None:
    pairs = [(0.9, 0.5), (0.2, 0.5), (0.8, 0.5), (0.3, 0.5), (0.5, 0.5)]

    text = headline(report_of(*({"translated": t, "shuffled_input": c} for t, c in pairs)), "seen")

    assert "by chance: nothing shows that it adds anything beyond shuffled input (0.500).**" in text


def test_a_source_client_as_good_does_not_hide_the_lead_over_the_controls() -> None:
    scores = {"translated": 0.8, "source_client": 0.9, "shadow_mean": 0.1}

    text = headline(report_of(scores, scores), "seen")

    assert "Nothing was gained over the client's own small model: source client (0.900)" in text
    assert "It leads every control, mean shadow by 0.700 [0.700, 0.700], p = 0.5." in text


def test_headline_without_controls_or_without_a_translation() -> None:
    assert "No control was scored" in headline(report_of({"translated": 0.5, "ceiling": 0.9}), "seen")
    assert headline(report_of({"ceiling": 0.9}), "seen").endswith("no translated adapter was scored.")


def test_markdown_shows_every_method_and_client_and_how_it_was_made() -> None:
    report = rules_report()

    text = render_markdown(report, plot_file="report.png")

    assert all(method.label in text for method in METHODS.values())
    assert all(f"| {n} | reverse, shift {n - 1} |" in text for n in range(1, 13))
    assert "![Scores of all methods](report.png)" in text
    assert "with `gradtx quickstart --output-dir out --seed 0`." in text
    assert not re.search(r"-0\.0+(?!\d)", text)
    assert "](report.png)" not in render_markdown(report)


def test_markdown_says_that_intervals_are_over_tasks() -> None:
    clients = [ClientScores(f"task {n % 4}", True, {"translated": n / 12}, seed=n // 4) for n in range(12)]
    report = Report.from_clients(clients, metric="exact_match", higher_is_better=True, seconds={}, config={})

    assert "95 % bootstrap intervals over tasks (4 tasks, 12 clients)." in render_markdown(report)
    assert report.to_json()["summary"]["seen"]["num_tasks"] == 4
    assert Report.from_json(report.to_json()) == report


def test_nats_per_token_stand_beside_the_score_where_there_are_any() -> None:
    clients = [
        ClientScores(f"task {n}", True, {"translated": 0.5, "ridge": 0.5}, nats_per_token={"translated": n / 8})
        for n in (1, 2, 3)
    ]
    report = Report.from_clients(clients, metric="exact_match", higher_is_better=True, seconds={}, config={})

    text = render_markdown(report)

    nats = report.summary["seen"].methods["translated"].nats_per_token
    assert nats is not None
    assert (nats.mean, nats.low, nats.high) == (0.25, 0.125, 0.375)
    assert report.summary["seen"].methods["ridge"].nats_per_token is None
    assert "| method | Seen tasks (3 clients) | nats per token (lower is better) | gain recovered |" in text
    assert "| Ridge on update tokens | 0.500 [0.500, 0.500] | - | - |" in text
    assert "| **Translated adapter** | 0.500 [0.500, 0.500] | 0.250 [0.125, 0.375] | - |" in text
    assert report.to_json()["clients"][0]["nats_per_token"] == {"translated": 0.125}
    assert Report.from_json(report.to_json()) == report
    without = render_markdown(bits_report())
    assert "ats per token" not in without
    assert all("nats_per_token" not in client for client in bits_report().to_json()["clients"])


def test_reports_of_before_are_still_read() -> None:
    values = rules_report().to_json()
    for group in values["summary"].values():
        for method in group["methods"].values():
            del method["nats_per_token"]

    assert Report.from_json(values) == rules_report()
    for group in values["summary"].values():
        for method in group["methods"].values():
            del method["p_value"]
    assert "p = " not in headline(Report.from_json(values), "unseen")
    assert "target run" not in render_markdown(Report.from_json(values))


def test_markdown_shows_unknown_methods_and_reasons() -> None:
    text = render_markdown(
        report_of({"translated": 0.4, "my_rival": 0.3, "target_untouched": 0.5, "ceiling": 0.5}, seen=None)
    )

    assert "| My rival | 0.300 |" in text
    assert "client 1 has no gain recovered: the ceiling (0.5) is not better than the target untouched (0.5)." in text


# report.png and the files


@pytest.mark.parametrize("make", [rules_report, bits_report])
def test_all_files_are_written_and_the_plot_shows_something(make: type[Report], tmp_path: Path) -> None:
    from matplotlib.image import imread

    files = save_report(make(), tmp_path / "new")

    assert [file.name for file in files] == ["report.png", "report.md", "report.json"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["report.json", "report.md", "report.png"]
    image = imread(files[0])
    assert image.shape[1] == 1800
    assert len({tuple(pixel) for pixel in image[::5, ::5, :3].reshape(-1, 3).round(2)}) > 5


def test_a_plot_of_odd_scores_is_drawn() -> None:
    from gradtx_hf.evaluation.plot import render_png

    mixed = [
        ClientScores("a", True, {"translated": -0.5, "ridge": 0.0}),
        ClientScores("b", None, {"ridge": 0.0}),
    ]
    report = Report.from_clients(mixed, metric="m", higher_is_better=True, seconds={}, config={})

    assert report.groups == ["all", "seen"]
    assert render_png(report).startswith(b"\x89PNG")
    assert render_png(report_of({"translated": 0.0})).startswith(b"\x89PNG")


def test_without_matplotlib_there_is_all_but_the_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_import = builtins.__import__

    def without_matplotlib(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "gradtx_hf.evaluation.plot", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_matplotlib)

    with caplog.at_level(logging.WARNING):
        files = save_report(rules_report(), tmp_path)

    assert [file.name for file in files] == ["report.md", "report.json"]
    assert 'pip install "gradtx-hf[eval]"' in caplog.text
    with pytest.raises(MissingExtraError):
        import gradtx_hf.evaluation.plot  # noqa: F401
