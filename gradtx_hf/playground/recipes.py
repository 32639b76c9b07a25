"""How the embedded models are fine-tuned: shadow sets and clients alike, as values of ``FineTuningRecipe``.

A low learning rate and a long warm-up leave runs of one task near each other, and an adapter near its start, where
what it says of its task can be read best. The source client is then not at its own best; the translated adapter is.
Source: ours, chosen on development rules.
"""

from __future__ import annotations

from typing import Any


def source_recipe() -> dict[str, Any]:
    """Return the recipe of the embedded source."""
    return {"num_steps": 60, "warmup_steps": 30, "batch_size": 16, "learning_rate": 2.5e-3, "max_length": 32}


def target_recipe() -> dict[str, Any]:
    """Return the recipe of the embedded target."""
    return {"num_steps": 120, "warmup_steps": 60, "batch_size": 16, "learning_rate": 5e-3, "max_length": 32}
