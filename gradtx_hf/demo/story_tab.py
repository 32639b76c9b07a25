"""The story's tab: five steps from private lines to answers side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from gradtx_hf.demo import drawing, story_handlers
from gradtx_hf.demo.examples import EXAMPLES, INPUTS
from gradtx_hf.demo.limits import EXAMPLE, KEPT_SECONDS, STORY
from gradtx_hf.demo.story_controls import build_data, build_privacy
from gradtx_hf.demo.story_handlers import Visit


STEPS = (
    (
        "The client has private lines",
        "Six letters in, six letters out, by one of 144 secret rules. ?? hides which: only the private lines can tell.",
    ),
    (
        "A small model learns them, at the client",
        "LoRA fine-tuning of a 63-thousand-parameter model, on this CPU, now.",
    ),
    ("Only the adapter leaves", "No line of text, no gradient per line: the numbers below, and nothing else."),
    (
        "The translator writes the large model's adapter",
        "It reads the small model's update block by block. No language model is loaded, no data are read.",
    ),
    (
        "Ask them all",
        "Every model gets the same inputs. The control is the same translator, fed another client's adapter.",
    ),
)
WAITING = (
    "Press the button above: the run shows here.",
    "What leaves shows here.",
    "The blocks show here.",
    "Answers show here.",
)
RUNNING = "The small model is being fine-tuned."
SCROLL = (
    "() => {{ document.getElementById('{place}').scrollIntoView({{block: '{block}', behavior: "
    "matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth'}}); return []; }}"
)
SCROLL_TO_TUNING = SCROLL.format(place="gx-tuning", block="start")
SCROLL_TO_ANSWERS = SCROLL.format(place="gx-answers", block="start")


def build_story_tab() -> gr.State:
    """Lay out the tab, connect its events, and return where a visitor's ``Visit`` is kept."""
    visit = gr.State(Visit(), time_to_live=KEPT_SECONDS)
    gr.HTML(drawing.step_title(1, *STEPS[0]))
    controls = build_data()
    level = build_privacy()
    run = gr.Button("Run the story: about ten seconds", variant="primary", size="lg")
    example = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[example.label] for example in EXAMPLES],
        type="index",
        label="Or see at once what came of it before",
    )
    places = {"visit": visit, **_build_steps()}
    _connect_story(run, [visit, *controls.data, level], places)
    decided = {name: getattr(controls, name) for name in ("kind", "rearrangement", "shift")}
    _connect_examples(example, {**places, **decided, "level": level})
    return visit


def _build_steps() -> dict[str, Any]:
    """Lay out all steps but the first, and return what shows in them by its name."""
    gr.HTML(drawing.step_title(2, *STEPS[1]), elem_id="gx-tuning")
    places: dict[str, Any] = {"tuned": gr.HTML(drawing.waiting(WAITING[0]), min_height=80)}
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            gr.HTML(drawing.step_title(3, *STEPS[2]))
            places["leaving"] = gr.HTML(drawing.waiting(WAITING[1]), min_height=80)
            places["archive"] = gr.DownloadButton("Download the client's adapter (.zip)", size="sm")
        with gr.Column(min_width=320):
            gr.HTML(drawing.step_title(4, *STEPS[3]))
            places["crossing"] = gr.HTML(drawing.waiting(WAITING[2]), min_height=80)
    gr.HTML(drawing.step_title(5, *STEPS[4]))
    with gr.Row(equal_height=True):
        info = "Up to eight times six letters of a to l."
        places["inputs"] = gr.Textbox(" ".join(INPUTS), label="Your inputs", info=info, max_length=200, scale=4)
        places["ask"] = gr.Button("Ask again", scale=1, min_width=120)
    places["answers"] = gr.HTML(drawing.waiting(WAITING[3]), elem_id="gx-answers", min_height=80)
    return places | {"runs": gr.HTML(), "numbers": gr.JSON(visible=False)}


def _connect_story(run: gr.Button, tuning: list[Any], places: dict[str, Any]) -> None:
    """Let the button tell the story, step by step."""
    waiting = [drawing.waiting(text) for text in (RUNNING, *WAITING[1:])]
    panels = [places[name] for name in ("tuned", "leaving", "crossing", "answers")]
    visit, asked = places["visit"], [places["visit"], places["inputs"]]
    results = [places[name] for name in ("visit", "answers", "runs", "numbers")]
    left = [places["leaving"], places["archive"]]
    event = run.click(
        lambda: waiting, None, panels, api_name="clear_story", show_progress="hidden", js=SCROLL_TO_TUNING
    )
    event = event.then(story_handlers.fine_tune, tuning, [visit, places["tuned"]], api_name="fine_tune", **STORY)
    event = event.success(story_handlers.show_leaving, visit, left, api_name="leaving", **STORY)
    crossed = [visit, places["crossing"]]
    event = event.success(story_handlers.translate, visit, crossed, api_name="translate_story", **STORY)
    event = event.success(story_handlers.answer, asked, results, api_name="answer", **STORY)
    event.success(fn=None, js=SCROLL_TO_ANSWERS)
    again = [places["ask"].click, places["inputs"].submit]
    gr.on(again, story_handlers.answer, asked, results, api_name="ask", **STORY)


def _connect_examples(example: gr.Dataset, places: dict[str, Any]) -> None:
    """Let a click on an example fill every place of the tab that it has something for."""
    outputs = [places[name] for name in story_handlers.EXAMPLE_PLACES]
    event = story_handlers.show_example, [example, places["visit"]], outputs
    shown = example.click(*event, api_name="example", show_progress="hidden", **EXAMPLE)
    shown.success(fn=None, js=SCROLL_TO_TUNING)
