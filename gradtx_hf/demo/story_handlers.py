"""What the story's events do: plain functions of the visit and the controls' values."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from gradtx_hf.demo import drawing, story
from gradtx_hf.demo.client_run import ClientRun
from gradtx_hf.demo.examples import EXAMPLES, INPUTS, told
from gradtx_hf.demo.limits import one_line_errors
from gradtx_hf.demo.privacy_cost import BUDGETS, LEVELS, budget_of, draw_chosen, draw_cost
from gradtx_hf.demo.story_drawing import (
    Run,
    draw_answers,
    draw_crossing,
    draw_leaving,
    draw_lines,
    draw_run,
    draw_runs,
    wanted_answers,
)
from gradtx_hf.demo.uploads import zip_adapter
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground import Rule
from gradtx_hf.playground.world import LETTERS, REARRANGEMENTS
from gradtx_hf.translation import TranslatedAdapter


Made = TypeVar("Made")
OF_A_RULE, OWN = "Lines of a rule", "Lines of my own"
SECONDS_PER_BLOCK = 0.3
"""How slowly the written blocks are shown, so that one sees them come."""
EXAMPLE_PLACES = (
    *("kind", "rearrangement", "shift", "level", "inputs"),
    *("visit", "tuned", "leaving", "archive", "crossing", "answers", "numbers"),
)
"""What ``show_example`` fills, as the tab calls it."""
KEPT_NOTE = "Fine-tuned before, and kept with the app. Run the story to see it done now."
MAX_RUNS = 12
"""Of a visitor's results so far, how many are shown."""


@dataclass(frozen=True)
class Visit:
    """What one visitor has come to; kept in the session, seen by nobody else.

    Attributes:
        data: The private lines.
        budget: Their epsilon, as ``BUDGETS`` calls it.
        run: The fine-tuning.
        translated: The translation, once there is one.
        runs: Results so far.
    """

    data: story.PrivateData | None = None
    budget: str = ""
    run: ClientRun | None = None
    translated: TranslatedAdapter | None = None
    runs: tuple[Run, ...] = ()


def show_lines(kind: str, rearrangement: str, shift: float, own_lines: str) -> str:
    """Show some of the private lines."""
    with one_line_errors():
        return draw_lines(_read_data(kind, rearrangement, shift, own_lines))


def random_rule() -> tuple[str, int]:
    """Draw one of the 144 rules: a rearrangement and a shift."""
    return random.choice(list(REARRANGEMENTS)), random.randrange(len(LETTERS))


def show_cost(level: float) -> tuple[str, str]:
    """Show the privacy budget that a level stands for, and what it costs."""
    with one_line_errors():
        budget = budget_of(level)
        return draw_chosen(budget), draw_cost(budget)


def fine_tune(
    visit: Visit,
    kind: str,
    rearrangement: str,
    shift: float,
    own_lines: str,
    level: float,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it over
) -> tuple[Visit, str]:
    """Fine-tune the small model on the private lines, at a privacy level: 0 is none, 6 the most."""
    with one_line_errors():
        budget = budget_of(level)
        data = _read_data(kind, rearrangement, shift, own_lines)
        progress(0.0, desc="Reading the private lines" if BUDGETS[budget] is None else "Finding the noise for this ε")
        run = story.fine_tune_source(
            data,
            epsilon=BUDGETS[budget],
            on_progress=lambda step, total: progress((step, total), desc="Fine-tuning the small model", unit="steps"),
        )
        return replace(visit, data=data, budget=budget, run=run, translated=None), draw_run(data, run)


def show_leaving(visit: Visit) -> Iterator[tuple[str, str]]:
    """Show what leaves the client, and pack it."""
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        run = _made(visit.run)
        archive = zip_adapter(Path(scratch) / "client_adapter.zip", run.adapter.config, run.adapter.tensors)
        yield draw_leaving(run), str(archive)


def take_adapter(visit: Visit) -> Iterator[list[str]]:
    """Hand the story's adapter to the other tab, packed as a visitor would upload it."""
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        adapter = _made(visit.run).adapter
        yield [str(zip_adapter(Path(scratch) / "story_adapter.zip", adapter.config, adapter.tensors))]


def translate(visit: Visit) -> Iterator[tuple[Visit, str]]:
    """Translate the adapter, and show the large model's blocks one after the other."""
    with one_line_errors():
        translated = story.translate(_made(visit.run).adapter)
        visit = replace(visit, translated=translated)
        for n in range(story.embedded_translator().target_init.layout.num_blocks):
            yield visit, draw_crossing(translated, num_blocks=n + 1)
            time.sleep(SECONDS_PER_BLOCK)
        yield visit, draw_crossing(translated)


def answer(visit: Visit, inputs: str) -> tuple[Visit, str, str, dict[str, Any]]:
    """Let all models answer the visitor's inputs and the lines kept back."""
    with one_line_errors():
        given = story.read_inputs(inputs)
        data, run, translated = _made(visit.data), _made(visit.run), _made(visit.translated)
        answers = story.ask_all(data, source=run.adapter.tensors, translated=translated.tensors, inputs=given)
        result = (data.name, visit.budget, answers["source_client"].score, answers["translated"].score)
        visit = replace(visit, runs=tuple(dict.fromkeys((*visit.runs, result)))[-MAX_RUNS:])
        shown = draw_answers(data, given, answers)
        return visit, shown, draw_runs(visit.runs), _numbers(data, visit.budget, given, answers)


def show_example(index: int, visit: Visit) -> Iterator[list[Any]]:
    """Show a story that was told before, from its controls to its answers, as if it were this visit's own.

    Yields:
        What the tab shows, in the order of ``EXAMPLE_PLACES``.
    """
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        if index not in range(len(EXAMPLES)):
            raise ConfigurationError(f"got example {index}, expected one of 0 to {len(EXAMPLES) - 1}.")
        example = EXAMPLES[index]
        found = told(example)
        budget = next(label for label, epsilon in BUDGETS.items() if epsilon == example.epsilon)
        archive = zip_adapter(Path(scratch) / "client_adapter.zip", found.run.adapter.config, found.run.adapter.tensors)
        yield [
            OF_A_RULE,
            example.rule.rearrangement,
            example.rule.shift,
            LEVELS.index(budget),
            " ".join(INPUTS),
            Visit(found.data, budget, found.run, found.translated, visit.runs),
            drawing.note(KEPT_NOTE) + draw_run(found.data, found.run, is_kept=True),
            draw_leaving(found.run),
            str(archive),
            draw_crossing(found.translated),
            draw_answers(found.data, INPUTS, found.answers),
            _numbers(found.data, budget, INPUTS, found.answers),
        ]


def _numbers(
    data: story.PrivateData, budget: str, given: Sequence[str], answers: Mapping[str, story.Answers]
) -> dict[str, Any]:
    """Return what the models answer, for who scripts the app."""
    return {
        "lines": data.name,
        "epsilon": BUDGETS[budget],
        "inputs": given,
        "wanted": wanted_answers(data, given),
        "answers": {name: found.completions for name, found in answers.items()},
        "exact_match": {name: found.score for name, found in answers.items()},
    }


def _read_data(kind: str, rearrangement: str, shift: float, own_lines: str) -> story.PrivateData:
    """Return the private data that the controls stand for."""
    if kind == OWN:
        return story.own_data(own_lines)
    if rearrangement not in REARRANGEMENTS or shift not in range(len(LETTERS)):
        raise ConfigurationError(
            f"there is no rule {str(rearrangement)[:40]!r} with shift {shift}. Choose another one."
        )
    return story.rule_data(Rule(rearrangement, int(shift)))


def _made(value: Made | None) -> Made:
    if value is None:
        raise ConfigurationError("there is no fine-tuned model in this visit yet. Run the story first.")
    return value
