"""What the story looks like: private lines, verdict, bars, and the models' answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from gradtx_hf.demo import drawing
from gradtx_hf.demo.client_run import ClientRun
from gradtx_hf.demo.story import Answers, PrivateData, embedded_translator, known_rules
from gradtx_hf.evaluation.methods import method_of
from gradtx_hf.translation import TranslatedAdapter


NUM_SHOWN = 8
LABELS = {
    "source_client": "Small model, fine-tuned on the private lines",
    "target_untouched": "Large model, untouched",
    "shuffled_input": "Large model + another client's adapter, translated",
    "translated": "Large model + this client's adapter, translated",
}
"""Method, as in reports, to how the story calls it; in the order shown."""
CONTROLS = ("target_untouched", "shuffled_input")
CLEARLY_LESS = 0.2
"""Of the shares of right answers."""
Run = tuple[str, str, float, float]
"""Lines, privacy budget, and the scores of the small and of the large model."""


def draw_lines(data: PrivateData) -> str:
    """Draw some of the private lines, and say whether the provider has ever seen their rule."""
    if data.rule is None:
        known = "The provider has never seen these lines."
    elif data.rule.name in known_rules():
        known = "A rule the provider knows: it trained the translator with other, public lines of it."
    else:
        known = "A rule that is new to the provider: the translator was never trained with a line of it."
    items = "".join(
        f"<li><code>{escape(line['prompt'])}<b>{escape(line['completion'])}</b></code></li>"
        for line in data.lines[:NUM_SHOWN]
    )
    count = f"{min(NUM_SHOWN, len(data.lines))} of {len(data.lines):,} private lines"
    return f'<p class="gx-small">{count}</p><ul class="gx-lines">{items}</ul>{drawing.note(known)}'


def draw_run(data: PrivateData, run: ClientRun, *, is_kept: bool = False) -> str:
    """Draw what the fine-tuning came to; of one that is kept, without how long it took on another machine."""
    shown = {"private lines": f"{len(data.lines):,}", "steps": str(run.num_steps)}
    if not is_kept:
        shown["seconds"] = f"{run.seconds:.1f}"
    if run.privacy is None:
        shown["final loss (nats per token)"] = "-" if run.final_loss is None else f"{run.final_loss:.2f}"
    else:
        shown |= {
            "ε spent": f"{run.privacy['epsilon']:.2f}",
            "δ": f"{run.privacy['delta']:.0e}",
            "noise multiplier": f"{run.privacy['noise_multiplier']:.2f}",
        }
    return drawing.facts(shown)


def draw_leaving(run: ClientRun) -> str:
    """Draw what leaves the client: how many numbers, how large, and what they may tell."""
    adapter = run.adapter
    norms = drawing.update_norms(adapter.tensors, embedded_translator().source_init)
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
    return drawing.facts(shown) + picture + drawing.note(privacy)


def draw_crossing(translated: TranslatedAdapter, *, num_blocks: int | None = None) -> str:
    """Draw the large model's adapter.

    Args:
        translated: The translated adapter.
        num_blocks: How many blocks have come so far; None: all, with what is to be said of the whole.
    """
    init = embedded_translator().target_init
    norms = drawing.update_norms(translated.tensors, init)
    caption = "Norm of the large model's update, by block and tensor"
    picture = drawing.heat_map(caption, init.layout, norms, num_blocks=num_blocks)
    if num_blocks is not None:
        return picture
    report = translated.report
    shown = {
        "seconds": f"{report['seconds']:.2f}",
        "numbers written": f"{init.layout.num_elements:,}",
        "language models loaded": "0",
        "lines of text read": "0",
        f"distance of the input (limit {report['input_distance_limit']:.2f})": f"{report['input_distance']:.2f}",
    }
    warnings = "".join(drawing.note(f"Warning: {warning}", kind="warning") for warning in report["warnings"])
    return drawing.facts(shown) + picture + warnings


def draw_answers(data: PrivateData, given: Sequence[str], answers: Mapping[str, Answers]) -> str:
    """Draw the verdict, a bar for each model, and its answers to the visitor's inputs."""
    best_control = max(answers[name].score for name in CONTROLS)
    translated = answers["translated"].score
    verdict = (
        f"On {len(data.held_out)} private lines kept back, the large model is right {translated:.0%} of the time with "
        f"the translated adapter, {answers['target_untouched'].score:.0%} without. It never saw a line."
    )
    small = answers["source_client"].score
    aside = (
        "The small model itself is too small to do the task well. Its adapter still says which task it is."
        if small < translated - CLEARLY_LESS
        else ""
    )
    bars = "".join(
        f'<li class="{"gx-main" if name == "translated" else ""}"><span class="gx-label">{escape(label)}</span>'
        f"{drawing.bar(answers[name].score, f'{answers[name].score:.0%}', kind=method_of(name).kind)}</li>"
        for name, label in LABELS.items()
    )
    return (
        drawing.note(verdict, kind="good" if translated > best_control else "warning")
        + (drawing.note(aside) if aside else "")
        + f'<h3>Right on the lines kept back</h3><ul class="gx-bars">{bars}</ul>'
        + drawing.table("Answers to your inputs", ["model", *given], _answer_rows(data, given, answers))
    )


def draw_runs(runs: Sequence[Run]) -> str:
    """Draw the visitor's results so far, by privacy budget."""
    rows: list[list[drawing.Cell]] = [
        [(name, ""), (budget, ""), (f"{small:.0%}", ""), (f"{large:.0%}", "gx-strong")]
        for name, budget, small, large in runs
    ]
    head = ["lines of", "ε", "small model", "large model, translated"]
    return drawing.table("Your runs so far: share of the lines kept back that are right", head, rows)


def wanted_answers(data: PrivateData, given: Sequence[str]) -> list[str] | None:
    """Return what a rule makes of inputs; None where the rule is not known."""
    return None if data.rule is None else [data.rule.apply(text) for text in given]


def _answer_rows(data: PrivateData, given: Sequence[str], answers: Mapping[str, Answers]) -> list[list[drawing.Cell]]:
    wanted = wanted_answers(data, given)
    rows: list[list[drawing.Cell]] = []
    if wanted is not None:
        rows.append([("What the rule wants", ""), *((text, "gx-mono") for text in wanted)])
    for name, label in LABELS.items():
        cells = [
            _answer_cell(text, None if wanted is None else wanted[i])
            for i, text in enumerate(answers[name].completions)
        ]
        rows.append([(label, "gx-strong" if name == "translated" else ""), *cells])
    return rows


def _answer_cell(text: str, wanted: str | None) -> drawing.Cell:
    shown = text or "(nothing)"
    if wanted is None:
        return shown, "gx-mono"
    return (f"✓ {shown}", "gx-mono gx-right") if text == wanted else (f"✗ {shown}", "gx-mono gx-wrong")
