"""Results as HTML of our own: it follows the theme, light or dark, and fits a phone. All text of others is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from torch import Tensor

from gradtx_hf.lora import Adapter
from gradtx_hf.updates import BlockLayout


Cell = tuple[str, str]
"""A text, and the class that it is shown in."""


def update_norms(tensors: Mapping[str, Tensor], init: Adapter) -> dict[str, float]:
    """Return the Euclidean norm of every tensor's difference from an initial adapter, by tensor."""
    return {name: float((tensors[name].double() - init.tensors[name].double()).norm()) for name in init.tensors}


def heat_map(caption: str, layout: BlockLayout, norms: Mapping[str, float], *, num_blocks: int | None = None) -> str:
    """Draw the norm of every tensor of an update: a column for each block, a row for each tensor of a block.

    Args:
        caption: What it shows.
        layout: Which tensor stands in which block.
        norms: Norm by tensor.
        num_blocks: How many blocks have been written; the others are shown empty. None: all.
    """
    shown = layout.num_blocks if num_blocks is None else num_blocks
    largest = max(norms.values(), default=0.0) or 1.0
    rows = list(dict.fromkeys(_row_of(slot.module, slot.factor) for _, slot in layout.slots.values()))
    values = {(_row_of(slot.module, slot.factor), n): norms[name] for name, (n, slot) in layout.slots.items()}
    head = "".join(f'<th scope="col">{n + 1}</th>' for n in range(layout.num_blocks))
    body = ""
    for row in rows:
        cells = ""
        for n in range(layout.num_blocks):
            value = values.get((row, n))
            if value is None or n >= shown:
                cells += '<td class="gx-cold"><span aria-hidden="true">·</span></td>'
            else:
                cells += f'<td style="--heat:{100 * value / largest:.0f}%">{value:.2f}</td>'
        body += f'<tr><th scope="row">{escape(row)}</th>{cells}</tr>'
    return captioned(
        caption,
        f'<table class="gx-heat"><thead><tr><th scope="col">block</th>{head}</tr></thead><tbody>{body}</tbody></table>',
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Draw a table whose first column names the rows; it scrolls by itself where it is too wide."""
    columns = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = ""
    for first, *others in rows:
        cells = "".join(f'<td class="{kind}">{escape(text)}</td>' for text, kind in others)
        body += f'<tr><th scope="row" class="{first[1]}">{escape(first[0])}</th>{cells}</tr>'
    return captioned(caption, f'<table class="gx-table"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>')


def facts(pairs: Mapping[str, str]) -> str:
    """Draw numbers with what they are, side by side."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items())
    return f'<dl class="gx-facts">{items}</dl>'


def bar(share: float, text: str, *, kind: str) -> str:
    """Draw a bar of a share in [0, 1] with its number."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<span class="gx-bar gx-{kind}"><span style="width:{width:.1f}%" aria-hidden="true"></span></span>'
        f'<span class="gx-number">{escape(text)}</span>'
    )


def note(text: str, *, kind: str = "plain") -> str:
    """Draw a sentence: ``plain``, ``good``, or ``warning``."""
    return f'<p class="gx-note gx-{kind}">{escape(text)}</p>'


def step_title(number: int, title: str, text: str) -> str:
    """Draw the heading of one step of the story."""
    return (
        f'<div class="gx-step"><span class="gx-count" aria-hidden="true">{number}</span>'
        f"<div><h2>{escape(title)}</h2><p>{escape(text)}</p></div></div>"
    )


def waiting(text: str) -> str:
    """Draw what stands where nothing has been made yet."""
    return f'<div class="gx-waiting">{escape(text)}</div>'


def captioned(caption: str, content: str) -> str:
    """Let content scroll sideways under its caption, by keyboard too."""
    return (
        f'<figure class="gx-figure"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="gx-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{content}</div></figure>'
    )


def _row_of(module: str, factor: str) -> str:
    return f"{module.rpartition('.')[2]} {factor.removeprefix('lora_')}"
