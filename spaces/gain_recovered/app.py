"""The metric in a page: three scores to one share."""

from __future__ import annotations

from pathlib import Path

import evaluate
import gradio as gr


METRIC = evaluate.load(str(Path(__file__).with_name("gain_recovered.py")))


def compute(translated: float, target_untouched: float, ceiling: float, higher_is_better: bool) -> str:  # noqa: FBT001 - form
    """Return the share, or why there is none."""
    found = METRIC.compute(
        translated=[translated],
        target_untouched=[target_untouched],
        ceiling=[ceiling],
        higher_is_better=higher_is_better,
    )
    return found["reason"] or f"{found['gain_recovered']:.4f}"


demo = gr.Interface(
    compute,
    inputs=[
        gr.Number(0.7, label="translated"),
        gr.Number(0.5, label="target_untouched"),
        gr.Number(0.9, label="ceiling"),
        gr.Checkbox(value=True, label="higher is better"),
    ],
    outputs=gr.Textbox(label="Gain recovered"),
    title="Gain recovered",
    description="gain recovered = (translated - target_untouched) / (ceiling - target_untouched)",
    api_name="compute",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
