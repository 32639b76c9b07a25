"""The metric in a page: three scores to one share."""

from __future__ import annotations

from pathlib import Path

import evaluate
import gradio as gr


METRIC = evaluate.load(str(Path(__file__).with_name("pgr.py")))


def compute(translated: float, source_client: float, ceiling: float, higher_is_better: bool) -> str:  # noqa: FBT001 - form
    """Return the share, or why there is none."""
    found = METRIC.compute(
        translated=[translated], source_client=[source_client], ceiling=[ceiling], higher_is_better=higher_is_better
    )
    return found["reason"] or f"{found['pgr']:.4f}"


demo = gr.Interface(
    compute,
    inputs=[
        gr.Number(0.7, label="translated"),
        gr.Number(0.5, label="source_client"),
        gr.Number(0.9, label="ceiling"),
        gr.Checkbox(value=True, label="higher is better"),
    ],
    outputs=gr.Textbox(label="PGR"),
    title="PGR",
    description="PGR = (translated - source_client) / (ceiling - source_client)",
    api_name="compute",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
