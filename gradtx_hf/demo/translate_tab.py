"""The translate tab: an adapter of the visitor's own, from here or from the Hub, to one of the large model."""

from __future__ import annotations

import os
from typing import Any, get_args

import gradio as gr

from gradtx_hf.demo import drawing, story_handlers, translate_handlers
from gradtx_hf.demo.limits import KEPT_SECONDS, MAX_ADAPTER_BYTES, MAX_ADAPTERS, MAX_UPLOAD_BYTES, OWN
from gradtx_hf.playground import TRANSLATOR_NAME
from gradtx_hf.translation import Aggregation


ABOUT = (
    f"Up to {MAX_ADAPTERS} adapters of the translator's small model, {MAX_UPLOAD_BYTES >> 20} MB a file, "
    f"{MAX_ADAPTER_BYTES >> 20} MB unpacked. Files are read as safetensors and JSON alone, and deleted within the hour."
)
TOKEN_NOTE = "Only for private repositories and for pushing. It is sent to the Hub alone, never stored, never logged."

SPACE_ID = "SPACE_ID"
"""Set by the Hub where the app runs as a Space."""


def build_translate_tab(visit: gr.State) -> None:
    """Lay out the tab, and connect its events.

    Args:
        visit: Where the story keeps a visitor's ``Visit``, whose adapter can be taken.
    """
    is_on_space = SPACE_ID in os.environ
    translated = gr.State(None, time_to_live=KEPT_SECONDS)
    gr.HTML(drawing.step_title(1, "Your adapter", ABOUT))
    with gr.Row(equal_height=False):
        repositories = gr.Textbox(
            "",
            label="Adapters on the Hub",
            placeholder="owner/name or owner/name@revision",
            info="One to a line; several are aggregated into one.",
            lines=3,
            max_length=4000,
        )
        archives = gr.File(
            file_count="multiple", file_types=[".zip"], label="or .zip archives of adapter folders", height=170
        )
        files = gr.File(file_count="directory", label="or one adapter's folder", height=170)
    with gr.Row(equal_height=False):
        translator = gr.Textbox(
            TRANSLATOR_NAME, label="Translator on the Hub", info="The default is embedded.", max_length=200
        )
        token = gr.Textbox(
            "",
            label="Hub token",
            type="password",
            info=TOKEN_NOTE,
            max_length=200,
            visible=not is_on_space,
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        )
        if is_on_space:
            gr.LoginButton("Log in for private repositories and pushing")
    with gr.Accordion("Several adapters: how they become one", open=False), gr.Row():
        rule = gr.Dropdown(list(get_args(Aggregation)), value="mean", label="Aggregation")
        weights = gr.Textbox(
            "", label="Weights", info="One per adapter, such as 0.7,0.3; empty: all alike.", max_length=400
        )
    with gr.Row():
        take = gr.Button("Take the story's adapter")
        check = gr.Button("Check whether it fits")
    examples = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[label] for label in translate_handlers.EXAMPLES],
        type="index",
        label="Or try one of these",
    )
    gr.HTML(drawing.step_title(2, "Does it fit?", "Shown before anything is translated."))
    compatibility = gr.HTML(drawing.waiting("Name or upload an adapter: what it is, and whether it fits, shows here."))
    details = gr.JSON(visible=False)
    run = gr.Button("Translate", variant="primary", size="lg")
    gr.HTML(
        drawing.step_title(3, "The large model's adapter", "A plain PEFT folder: PeftModel.from_pretrained loads it.")
    )
    result = gr.HTML(drawing.waiting("The translated adapter shows here."))
    archive = gr.DownloadButton("Download the translated adapter (.zip)")
    report = gr.JSON(visible=False)
    _build_push(translated, token)

    submission: list[Any] = [repositories, archives, files, translator, token]
    found = [compatibility, details]
    gr.on(
        [check.click, archives.upload, files.upload, repositories.submit],
        translate_handlers.check,
        submission,
        found,
        api_name="check",
        **OWN,
    )
    examples.click(translate_handlers.take_example, examples, archives, api_name="take_example").success(
        translate_handlers.check, submission, found, api_name="check_example", **OWN
    )
    take.click(story_handlers.take_adapter, visit, archives, api_name="take_adapter").success(
        translate_handlers.check, submission, found, api_name="check_taken", **OWN
    )
    run.click(translate_handlers.check, submission, found, api_name="check_first", **OWN).success(
        translate_handlers.translate,
        [*submission, rule, weights],
        [translated, result, archive, report],
        api_name="translate",
        **OWN,
    )


def _build_push(translated: gr.State, token: gr.Textbox) -> None:
    """Lay out, and connect, how the translated adapter is pushed."""
    with gr.Accordion("Push it to a repository of your own", open=False):
        with gr.Row():
            placeholder = "name, or owner/name" if SPACE_ID in os.environ else "owner/name"
            repository = gr.Textbox("", label="Repository", placeholder=placeholder, max_length=200)
            public = gr.Checkbox(label="public, if the repository is new")
        push = gr.Button("Push")
        pushed = gr.HTML()
    push.click(translate_handlers.push, [translated, repository, public, token], pushed, api_name="push", **OWN)
