"""The results' tab: verdict, bars and table of every report that is kept."""

from __future__ import annotations

import gradio as gr

from gradtx_hf.demo.limits import one_line_errors
from gradtx_hf.demo.results import draw_bars, draw_legend, load_report, report_names, title_of
from gradtx_hf.evaluation.headline import headline
from gradtx_hf.evaluation.markdown import summary_table


def show_report(name: str) -> tuple[str, str, str]:
    """Show a report: the verdict, the bars, and the table with every number."""
    with one_line_errors():
        report = load_report(name)
        verdict = "\n\n".join(headline(report, group) for group in report.groups)
        bars = "".join(draw_bars(report, group) for group in report.groups)
        return verdict, bars + draw_legend(), summary_table(report)


def build_results_tab() -> None:
    """Lay out the tab."""
    names = report_names()
    if not names:
        gr.Markdown("No report is kept with this installation. `gradtx quickstart --output-dir D` makes one.")
        return
    verdict, bars, table = show_report(names[0])
    chosen = gr.Dropdown(
        [(title_of(name), name) for name in names],
        value=names[0],
        label="Report",
        info="Every report shows every control: what the large model does without this client's adapter.",
    )
    shown = [
        gr.Markdown(verdict, elem_classes="gx-verdict"),
        gr.HTML(bars),
    ]
    with gr.Accordion("All numbers", open=False):
        shown.append(gr.Markdown(table, elem_classes="gx-numbers"))
    chosen.change(show_report, chosen, shown, api_name="report", show_progress="hidden")
