"""How a dialogue to be summarised is put."""

from __future__ import annotations

from gradtx_hf.tasks.task import TaskExample


def summary_example(dialogue: str, summaries: list[str]) -> TaskExample:
    """Return a dialogue with its summaries, the first of which is learned."""
    lines = "\n".join(line.strip() for line in dialogue.splitlines() if line.strip())
    references = tuple(summary.strip() for summary in summaries)
    return TaskExample(f"Summarize this dialogue.\n{lines}", references[0], references)
