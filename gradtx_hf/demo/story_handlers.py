"""What the story's events do: plain functions of the visit and the controls' values."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from gradtx_hf.demo import drawing, story
from gradtx_hf.demo.limits import one_line_errors
from gradtx_hf.demo.privacy_cost import BUDGETS
from gradtx_hf.demo.story_drawing import Run, draw_answers, draw_lines, draw_runs, wanted_answers
from gradtx_hf.demo.uploads import zip_adapter
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground import Rule
from gradtx_hf.playground.world import LETTERS, REARRANGEMENTS
from gradtx_hf.translation import TranslatedAdapter


Made = TypeVar("Made")
OF_A_RULE, OWN = "Lines of a rule", "Lines of my own"
SECONDS_PER_BLOCK = 0.3
"""How slowly the written blocks are shown, so that one sees them come."""
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
    run: story.ClientRun | None = None
    translated: TranslatedAdapter | None = None
    runs: tuple[Run, ...] = ()


def show_lines(kind: str, rearrangement: str, shift: float, own_lines: str) -> str:
    """Show some of the private lines."""
    with one_line_errors():
        return draw_lines(_read_data(kind, rearrangement, shift, own_lines))


def random_rule() -> tuple[str, int]:
    """Draw one of the 144 rules: a rearrangement and a shift."""
    return random.choice(list(REARRANGEMENTS)), random.randrange(len(LETTERS))


def fine_tune(
    visit: Visit,
    kind: str,
    rearrangement: str,
    shift: float,
    own_lines: str,
    budget: str,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it over
) -> tuple[Visit, str]:
    """Fine-tune the small model on the private lines."""
    with one_line_errors():
        if budget not in BUDGETS:
            raise ConfigurationError(f"got epsilon {budget!r}, expected one of {', '.join(BUDGETS)}.")
        data = _read_data(kind, rearrangement, shift, own_lines)
        progress(0.0, desc="Reading the private lines" if BUDGETS[budget] is None else "Finding the noise for this ε")
        run = story.fine_tune_source(
            data,
            epsilon=BUDGETS[budget],
            on_progress=lambda step, total: progress((step, total), desc="Fine-tuning the small model", unit="steps"),
        )
        shown = {"private lines": f"{len(data.lines):,}", "steps": str(run.num_steps), "seconds": f"{run.seconds:.1f}"}
        if run.privacy is None:
            shown["final loss (nats per token)"] = f"{run.final_loss:.2f}"
        else:
            shown |= {
                "ε spent": f"{run.privacy['epsilon']:.2f}",
                "δ": f"{run.privacy['delta']:.0e}",
                "noise multiplier": f"{run.privacy['noise_multiplier']:.2f}",
            }
        return replace(visit, data=data, budget=budget, run=run, translated=None), drawing.facts(shown)


def show_leaving(visit: Visit) -> Iterator[tuple[str, str]]:
    """Show what leaves the client, and pack it."""
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="gradtx-demo-") as scratch:
        run = _made(visit.run)
        adapter = run.adapter
        norms = drawing.update_norms(adapter.tensors, story.embedded_translator().source_init)
        shown = {
            "tensors": str(len(adapter.tensors)),
            "numbers": f"{adapter.layout.num_elements:,}",
            "bytes": f"{adapter.num_bytes:,}",
            "lines of text": "0",
        }
        picture = drawing.heat_map("Norm of the small model's update, by block and tensor", adapter.layout, norms)
        privacy = (
            "Without differential privacy, an adapter can reveal what it was trained on."
            if run.privacy is None
            else f"Differentially private: ε = {run.privacy['epsilon']:.2f} for every single line."
        )
        archive = zip_adapter(Path(scratch) / "client_adapter.zip", adapter.config, adapter.tensors)
        yield drawing.facts(shown) + picture + drawing.note(privacy), str(archive)


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
        init = story.embedded_translator().target_init
        norms = drawing.update_norms(translated.tensors, init)
        caption = "Norm of the large model's update, by block and tensor"
        for n in range(init.layout.num_blocks):
            yield visit, drawing.heat_map(caption, init.layout, norms, num_blocks=n + 1)
            time.sleep(SECONDS_PER_BLOCK)
        report = translated.report
        shown = {
            "seconds": f"{report['seconds']:.2f}",
            "numbers written": f"{init.layout.num_elements:,}",
            "language models loaded": "0",
            "lines of text read": "0",
            f"distance of the input (limit {report['input_distance_limit']:.2f})": f"{report['input_distance']:.2f}",
        }
        warnings = "".join(drawing.note(f"Warning: {warning}", kind="warning") for warning in report["warnings"])
        yield visit, drawing.facts(shown) + drawing.heat_map(caption, init.layout, norms) + warnings


def answer(visit: Visit, inputs: str) -> tuple[Visit, str, str, dict[str, Any]]:
    """Let all models answer the visitor's inputs and the lines kept back."""
    with one_line_errors():
        given = story.read_inputs(inputs)
        data, run, translated = _made(visit.data), _made(visit.run), _made(visit.translated)
        answers = story.ask_all(data, source=run.adapter.tensors, translated=translated.tensors, inputs=given)
        result = (data.name, visit.budget, answers["source_client"].score, answers["translated"].score)
        visit = replace(visit, runs=tuple(dict.fromkeys((*visit.runs, result)))[-MAX_RUNS:])
        numbers = {
            "lines": data.name,
            "epsilon": BUDGETS[visit.budget],
            "inputs": given,
            "wanted": wanted_answers(data, given),
            "answers": {name: found.completions for name, found in answers.items()},
            "exact_match": {name: found.score for name, found in answers.items()},
        }
        return visit, draw_answers(data, given, answers), draw_runs(visit.runs), numbers


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
