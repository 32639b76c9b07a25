"""The examples: kept stories are those of the embedded translator and of this code, and show without a model."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from gradtx_hf.demo import examples, story, story_handlers
from gradtx_hf.demo.client_run import KEPT, RUN_FILE, kept_name, load_run, save_run
from gradtx_hf.demo.examples import CONTROLS, EXAMPLES, INPUTS, Example, told
from gradtx_hf.demo.privacy_cost import MEASURED, load_measured
from gradtx_hf.demo.story_handlers import EXAMPLE_PLACES, Visit
from gradtx_hf.playground import Rule
from tests.demo.conftest import Told


def shown(index: int, visit: Visit | None = None) -> dict[str, object]:
    (values,) = story_handlers.show_example(index, visit or Visit())
    return dict(zip(EXAMPLE_PLACES, values, strict=True))


def asked_again(example: Example) -> dict[str, story.Answers]:
    found = told(example)
    return story.ask_all(
        found.data, source=found.run.adapter.tensors, translated=found.translated.tensors, inputs=INPUTS
    )


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_an_example_fills_the_tab_as_its_own_story_would(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "ask", None)  # no model is asked, nothing is fine-tuned
    monkeypatch.setattr(story, "fine_tune_source", None)
    example = EXAMPLES[index]

    values = shown(index)

    visit = values["visit"]
    assert isinstance(visit, Visit)
    assert (visit.data, visit.run) == (told(example).data, told(example).run)
    assert (values["rearrangement"], values["shift"]) == (example.rule.rearrangement, example.rule.shift)
    assert ("ε spent" in str(values["tuned"])) == (example.epsilon is not None)
    assert "kept with the app" in str(values["tuned"])
    assert str(values["crossing"]).count("--heat") == 16
    assert f"{told(example).answers['translated'].score:.0%}" in str(values["answers"])


def test_an_example_leaves_a_visitors_own_results_and_can_be_gone_on_with() -> None:
    runs = (("identity+7", "∞", 0.5, 1.0),)

    visit = shown(3, Visit(runs=runs))["visit"]
    assert isinstance(visit, Visit)
    visit, _, _, numbers = story_handlers.answer(visit, "abcdef")

    assert numbers["answers"]["translated"] == (EXAMPLES[3].rule.apply("abcdef"),)
    assert visit.runs[0] == runs[0]


@pytest.mark.parametrize("index", [-1, 4])
def test_an_example_that_is_none_is_refused(index: int) -> None:
    with pytest.raises(gr.Error, match=f"got example {index}, expected one of 0 to 3"):
        next(story_handlers.show_example(index, Visit()))


def test_what_is_kept_is_what_is_offered() -> None:
    wanted = {kept_name(example.rule, example.epsilon) for example in (*EXAMPLES, *CONTROLS)}

    assert {path.name for path in KEPT.iterdir()} == wanted
    for example in EXAMPLES:
        privacy = told(example).run.privacy
        assert (privacy is None) == (example.epsilon is None)
        assert privacy is None or privacy["epsilon"] <= (example.epsilon or 0)


def test_a_run_comes_back_as_it_was_kept(told: Told, tmp_path: Path) -> None:
    save_run(tmp_path / "run", told.run, rule="identity+7")

    run, notes = load_run(tmp_path / "run")

    assert notes == {"rule": "identity+7"}
    assert run.adapter.tensors.keys() == told.run.adapter.tensors.keys()
    assert all((run.adapter.tensors[name] == tensor).all() for name, tensor in told.run.adapter.tensors.items())
    assert (run.num_steps, run.final_loss, run.privacy) == (60, told.run.final_loss, None)
    assert (tmp_path / "run" / RUN_FILE).is_file()


def test_the_kept_answers_are_those_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "NUM_LINES", 8192)  # so that the lines kept back are those of the kept run
    examples.told.cache_clear()

    answers = asked_again(EXAMPLES[0])

    kept = told(EXAMPLES[0]).answers
    examples.told.cache_clear()
    assert answers.keys() == kept.keys()
    for method, found in answers.items():
        assert found.completions == kept[method].completions
        assert found.score == pytest.approx(kept[method].score, abs=0.02)  # a tie may fall otherwise elsewhere


@pytest.mark.slow
def test_the_measured_costs_are_of_the_embedded_translator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "NUM_LINES", 8192)
    measured = next(client for client in load_measured(MEASURED) if not client["seen"] and client["epsilon"] is None)
    rearrangement, _, shift = measured["rule"].rpartition("+")
    data = story.rule_data(Rule(rearrangement, int(shift)))

    run = story.fine_tune_source(data, epsilon=None)
    translated = story.translate(run.adapter)
    answers = story.ask_all(data, source=run.adapter.tensors, translated=translated.tensors, inputs=())

    assert translated.report["input_distance"] == pytest.approx(measured["input_distance"], rel=1e-3)
    for method, score in measured["scores"].items():
        assert answers[method].score == pytest.approx(score, abs=0.03)
