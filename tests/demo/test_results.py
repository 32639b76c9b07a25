"""The results tab: every kept report is drawn whole, from its own numbers."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import pytest

from gradtx_hf.demo import results
from gradtx_hf.demo.results import draw_bars, load_report, report_names, results_folder, title_of
from gradtx_hf.demo.results_tab import show_report
from gradtx_hf.evaluation import Report
from gradtx_hf.evaluation.client_scores import ClientScores
from gradtx_hf.evaluation.headline import format_score
from gradtx_hf.evaluation.methods import method_of
from gradtx_hf.output import write_json


def test_the_reports_are_those_kept_beside_the_examples() -> None:
    kept = Path(__file__).parents[2] / "examples" / "results"

    names = report_names()
    assert {path.stem for path in kept.glob("*.json")} | {"studies/baselines", "privacy/shift"} <= set(names)
    assert "cells/num_tasks" not in names
    assert all(
        (results_folder() / f"{name}.json").read_bytes() == (kept / f"{name}.json").read_bytes() for name in names
    )


def test_a_report_that_comes_later_is_offered_and_what_is_none_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report.from_clients(
        [ClientScores("a task", None, {"translated": -0.5, "a_new_method": 1.5, "ceiling": 2.0})],
        metric="bits_per_character",
        higher_is_better=False,
        seconds={},
        config={},
    )
    (tmp_path / "studies").mkdir()
    for name in ("later", "studies/another_one"):
        write_json(tmp_path / f"{name}.json", report.to_json())
    for name, text in {"cells": "{}", "list": "[]", "broken": "{", "empty": ""}.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(results, "PACKAGED", tmp_path)

    assert report_names() == ["later", "studies/another_one"]
    assert [title_of(name) for name in report_names()] == ["Later", "Studies: another one"]
    verdict, bars, table = show_report("studies/another_one")
    assert "bits per character" in verdict
    assert "A new method" in bars
    assert "A new method" in table


@pytest.mark.parametrize("name", report_names())
def test_every_method_of_a_report_has_a_bar_and_its_number(name: str) -> None:
    report = load_report(name)
    verdict, bars, table = show_report(name)

    assert title_of(name)
    for group in report.groups:
        drawn = draw_bars(report, group)
        assert drawn in bars
        assert drawn.count("<li") == len(report.summary[group].methods)
        for method, summary in report.summary[group].methods.items():
            assert method_of(method).label.replace("'", "&#x27;") in drawn
            assert format_score(summary.score.mean) in drawn
            assert format_score(summary.score.mean) in table
        assert format_score(report.summary[group].methods["translated"].score.mean) in verdict


@pytest.mark.parametrize("name", report_names())
def test_no_bar_is_wider_than_its_place(name: str) -> None:
    _, bars, _ = show_report(name)

    widths = [float(width) for width in re.findall(r"(?:width|left):([\d.]+)%", bars)]

    assert widths
    assert all(0 <= width <= 100 for width in widths)


@pytest.mark.parametrize("name", ["../../pyproject", "/etc/passwd", "", "nothing"])
def test_another_file_is_not_read(name: str) -> None:
    with pytest.raises(gr.Error, match="there is no report"):
        show_report(name)
