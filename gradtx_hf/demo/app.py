"""The app: three tabs, one style, and how it is served."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import torch

from gradtx_hf.demo.limits import KEPT_SECONDS, MAX_QUEUE, MAX_SESSIONS, MAX_UPLOAD_BYTES, SWEEP_SECONDS
from gradtx_hf.demo.repositories import forget_own_login
from gradtx_hf.demo.results_tab import build_results_tab
from gradtx_hf.demo.story_tab import build_story_tab
from gradtx_hf.demo.translate_tab import build_translate_tab
from gradtx_hf.errors import ConfigurationError


TITLE = "See an adapter cross over"
STYLE = Path(__file__).with_name("style.css")
INTRODUCTION = """
<header class="gx-header">
  <h1>See an adapter cross over</h1>
  <p>An organisation fine-tunes a <b>small</b> language model on data it may not share, and gets back an adapter for a
  <b>large</b> one. Nobody else sees the data; nobody fine-tunes the large model on it.</p>
  <ol class="gx-way" aria-label="The way of an adapter">
    <li class="gx-home"><small>client</small><b>private data</b><span>stay here</span></li>
    <li class="gx-home"><small>client</small><b>small model</b><span>+ LoRA adapter</span></li>
    <li class="gx-cross"><small>leaves</small><b>the adapter</b><span>a few kB of numbers</span></li>
    <li class="gx-away"><small>provider</small><b>translator</b><span>reads and writes adapters</span></li>
    <li class="gx-away"><small>provider</small><b>large model</b><span>+ its own adapter</span></li>
  </ol>
</header>
"""


def build_demo() -> gr.Blocks:
    """Build the app; nothing is fetched, fine-tuned or sent anywhere until a visitor asks for it."""
    demo: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS)) as demo:
        gr.HTML(INTRODUCTION)
        with gr.Tabs():
            with gr.Tab("Story"):
                visit = build_story_tab()
            with gr.Tab("Translate your own"):
                build_translate_tab(visit)
            with gr.Tab("Results"):
                build_results_tab()
    return demo


def launch(
    demo: gr.Blocks,
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    is_blocking: bool = True,
) -> str:
    """Serve the app, within the limits of ``limits``.

    Args:
        demo: The app.
        host: Address to listen at; None: this machine alone, or on a Space what the Space wants.
        port: Port; None: the first free one from 7860 on.
        share: Open a tunnel of Gradio's, by which anybody with the link reaches it.
        is_blocking: Serve until interrupted; else return at once, and serve in the background.

    Returns:
        The app's address on this machine.

    Raises:
        ConfigurationError: If the address or the port cannot be had.
    """
    torch.set_num_threads(1)  # small models run many times slower with more
    forget_own_login()
    demo.queue(max_size=MAX_QUEUE, default_concurrency_limit=4)
    try:
        _, address, _ = demo.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=not is_blocking,
            quiet=True,
            theme=build_theme(),
            css_paths=STYLE,
            max_file_size=MAX_UPLOAD_BYTES,
            state_session_capacity=MAX_SESSIONS,
            footer_links=["api"],
            enable_monitoring=False,
            ssr_mode=False,
        )
    except OSError as error:
        where = f"port {port}" if port is not None else "a port from 7860 on"
        raise ConfigurationError(
            f"{where} of '{host or 'this machine'}' cannot be listened at. Name another with --port, and check --host."
        ) from error
    return str(address)


def build_theme() -> gr.themes.Base:
    """Return a theme of fonts that are on every machine, with contrast enough for small type."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )
