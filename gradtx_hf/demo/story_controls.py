"""The story's controls: the private data, and the privacy budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from gradtx_hf.demo import story_handlers
from gradtx_hf.demo.examples import EXAMPLES
from gradtx_hf.demo.limits import MAX_OWN_CHARACTERS
from gradtx_hf.demo.privacy_cost import LEVELS, NO_PRIVACY, draw_chosen, draw_cost
from gradtx_hf.demo.story import rule_data
from gradtx_hf.demo.story_handlers import OF_A_RULE, OWN
from gradtx_hf.playground import Rule
from gradtx_hf.playground.world import LETTERS, REARRANGEMENTS


DEFAULT_RULE = EXAMPLES[0].rule
NUM_OWN_LINES = 64


@dataclass(frozen=True)
class Controls:
    """What the visitor decides on the private lines: the first inputs of ``fine_tune``, in its order."""

    kind: gr.Radio
    rearrangement: gr.Dropdown
    shift: gr.Slider
    own_lines: gr.Textbox

    @property
    def data(self) -> list[Any]:
        """All of them."""
        return [self.kind, self.rearrangement, self.shift, self.own_lines]


def build_data() -> Controls:
    """Lay out what the visitor decides on the private lines, beside some of them."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            controls = _build_controls()
        with gr.Column(min_width=280):
            first = (OF_A_RULE, DEFAULT_RULE.rearrangement, DEFAULT_RULE.shift, "")
            shown_lines = gr.HTML(story_handlers.show_lines(*first))
    _connect_controls(controls, shown_lines)
    return controls


def build_privacy() -> gr.Slider:
    """Lay out the slider of privacy budgets, with what each costs."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280, elem_classes="gx-privacy"):
            level = gr.Slider(
                0,
                len(LEVELS) - 1,
                value=0,
                step=1,
                label="Differential privacy: the budget ε",
                info="DP-SGD with fresh noise, at δ = 1e-5 or less. More private to the right; takes half a minute.",
                elem_classes="gx-levels",
                buttons=[],
            )
            ticks = "".join(f"<span>{label}</span>" for label in LEVELS)
            gr.HTML(f'<div class="gx-ticks" aria-hidden="true">{ticks}</div>')
        with gr.Column(min_width=280):
            chosen = gr.HTML(draw_chosen(NO_PRIVACY))
    with gr.Accordion("What does every ε cost?", open=False):
        cost = gr.HTML(draw_cost())
    level.change(
        story_handlers.show_cost,
        level,
        [chosen, cost],
        api_name="privacy_cost",
        show_progress="hidden",
        trigger_mode="always_last",
        queue=False,
    )
    return level


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
    kind.change(
        lambda chosen: [gr.update(visible=chosen == wanted) for wanted in (OF_A_RULE, OF_A_RULE, OWN)],
        kind,
        [of_a_rule, draw, own_lines],
        api_name="choose_data",
        show_progress="hidden",
    )
    draw.click(story_handlers.random_rule, None, [rearrangement, shift], api_name="random_rule", show_progress="hidden")
    return Controls(kind, rearrangement, shift, own_lines)


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
