"""The results tab: every kept report is drawn whole, from its own numbers."""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import pytest

from gradtx_hf.demo.results import draw_bars, load_report, report_names, results_folder, title_of
from gradtx_hf.demo.results_tab import show_report
from gradtx_hf.evaluation.headline import format_score
from gradtx_hf.evaluation.methods import method_of


def test_the_reports_are_those_kept_beside_the_examples() -> None:
    kept = Path(__file__).parents[2] / "examples" / "results"

    assert set(report_names()) == {path.stem for path in kept.glob("*.json")}
    assert {path.name: path.read_bytes() for path in results_folder().glob("*.json")} == {
        path.name: path.read_bytes() for path in kept.glob("*.json")
    }


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
