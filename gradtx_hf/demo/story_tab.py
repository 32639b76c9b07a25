"""The story's tab: four steps from private lines to answers side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from gradtx_hf.demo import drawing, story_handlers
from gradtx_hf.demo.limits import KEPT_SECONDS, MAX_OWN_CHARACTERS, STORY
from gradtx_hf.demo.privacy_cost import BUDGETS, draw_cost
from gradtx_hf.demo.story import rule_data
from gradtx_hf.demo.story_handlers import OF_A_RULE, OWN, Visit
from gradtx_hf.playground import Rule
from gradtx_hf.playground.world import LETTERS, REARRANGEMENTS


DEFAULT_RULE = Rule("odds_first", 7)
"""One that the embedded translator was never trained with."""
NUM_OWN_LINES = 64
INPUTS = "abcdef fedcba hijkla"
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


@dataclass(frozen=True)
class Controls:
    """What the visitor decides: the inputs of ``fine_tune``, in its order."""

    kind: gr.Radio
    rearrangement: gr.Dropdown
    shift: gr.Slider
    own_lines: gr.Textbox
    budget: gr.Radio

    @property
    def data(self) -> list[Any]:
        """Those that decide on the private lines."""
        return [self.kind, self.rearrangement, self.shift, self.own_lines]


def build_story_tab() -> gr.State:
    """Lay out the tab, connect its events, and return where a visitor's ``Visit`` is kept."""
    visit = gr.State(Visit(), time_to_live=KEPT_SECONDS)
    gr.HTML(drawing.step_title(1, *STEPS[0]))
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            controls = _build_controls()
        with gr.Column(min_width=280):
            first = (OF_A_RULE, DEFAULT_RULE.rearrangement, DEFAULT_RULE.shift, "")
            shown_lines = gr.HTML(story_handlers.show_lines(*first))
    run = gr.Button("Run the story: about ten seconds", variant="primary", size="lg")
    gr.HTML(drawing.step_title(2, *STEPS[1]), elem_id="gx-tuning")
    tuned = gr.HTML(drawing.waiting(WAITING[0]), min_height=80)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            gr.HTML(drawing.step_title(3, *STEPS[2]))
            leaving = gr.HTML(drawing.waiting(WAITING[1]), min_height=80)
            archive = gr.DownloadButton("Download the client's adapter (.zip)", size="sm")
        with gr.Column(min_width=320):
            gr.HTML(drawing.step_title(4, *STEPS[3]))
            crossing = gr.HTML(drawing.waiting(WAITING[2]), min_height=80)
    gr.HTML(drawing.step_title(5, *STEPS[4]))
    with gr.Row(equal_height=True):
        inputs = gr.Textbox(
            INPUTS, label="Your inputs", info="Up to eight times six letters of a to l.", max_length=200, scale=4
        )
        ask = gr.Button("Ask again", scale=1, min_width=120)
    answers = gr.HTML(drawing.waiting(WAITING[3]), elem_id="gx-answers", min_height=80)
    runs = gr.HTML()
    numbers = gr.JSON(visible=False)

    _connect_controls(controls, shown_lines)
    waiting = [drawing.waiting(text) for text in (RUNNING, *WAITING[1:])]
    panels = [tuned, leaving, crossing, answers]
    results = [visit, answers, runs, numbers]
    event = run.click(
        lambda: waiting, None, panels, api_name="clear_story", show_progress="hidden", js=SCROLL_TO_TUNING
    )
    tuning = [visit, *controls.data, controls.budget]
    event = event.then(story_handlers.fine_tune, tuning, [visit, tuned], api_name="fine_tune", **STORY)
    event = event.success(story_handlers.show_leaving, visit, [leaving, archive], api_name="leaving", **STORY)
    event = event.success(story_handlers.translate, visit, [visit, crossing], api_name="translate_story", **STORY)
    event = event.success(story_handlers.answer, [visit, inputs], results, api_name="answer", **STORY)
    event.success(fn=None, js=SCROLL_TO_ANSWERS)
    gr.on([ask.click, inputs.submit], story_handlers.answer, [visit, inputs], results, api_name="ask", **STORY)
    return visit


def _build_controls() -> Controls:
    kind = gr.Radio([OF_A_RULE, OWN], value=OF_A_RULE, label="Private data")
    with gr.Group() as of_a_rule:
        rearrangement = gr.Dropdown(
            [(f"{name.replace('_', ' ')}: abcdef → {Rule(name, 0).apply('abcdef')}", name) for name in REARRANGEMENTS],
            value=DEFAULT_RULE.rearrangement,
            label="Rearrangement",
        )
        shift = gr.Slider(
            0,
            len(LETTERS) - 1,
            value=DEFAULT_RULE.shift,
            step=1,
            label="Shift",
            info="Every letter then moves so many steps forward in a…l.",
        )
    draw = gr.Button("Draw a rule at random", size="sm")
    lines = rule_data(DEFAULT_RULE).lines[:NUM_OWN_LINES]
    own_lines = gr.Textbox(
        "\n".join(f"{line['prompt'].strip('?=')} = {line['completion']}" for line in lines),
        lines=8,
        max_lines=8,
        max_length=MAX_OWN_CHARACTERS,
        label="Your own lines",
        info="Ten or more, such as: abcdef = fedcba. With fewer than about fifty, expect little.",
        visible=False,
    )
    with gr.Accordion("Differential privacy: what does it cost?", open=False):
        budget = gr.Radio(
            list(BUDGETS),
            value=next(iter(BUDGETS)),
            label="Privacy budget ε",
            info="DP-SGD with fresh noise, at δ = 1e-5 or less; smaller is more private. Takes up to half a minute.",
        )
        gr.HTML(draw_cost())
    kind.change(
        lambda chosen: [gr.update(visible=chosen == wanted) for wanted in (OF_A_RULE, OF_A_RULE, OWN)],
        kind,
        [of_a_rule, draw, own_lines],
        api_name="choose_data",
        show_progress="hidden",
    )
    draw.click(story_handlers.random_rule, None, [rearrangement, shift], api_name="random_rule", show_progress="hidden")
    return Controls(kind, rearrangement, shift, own_lines, budget)


def _connect_controls(controls: Controls, shown_lines: gr.HTML) -> None:
    triggers = [controls.kind.change, controls.rearrangement.change, controls.shift.change, controls.own_lines.blur]
    gr.on(
        triggers,
        story_handlers.show_lines,
        controls.data,
        shown_lines,
        api_name="private_lines",
        show_progress="hidden",
        trigger_mode="always_last",
    )
