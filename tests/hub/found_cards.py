"""Metadata of translators' cards as a push writes them, with changes."""

from __future__ import annotations

from typing import Any

from gradtx_hf.hub.find import TRANSLATOR_TAG


SOURCE, TARGET, OTHER = "finders/base-small", "finders/base-large", "finders/base-other"
UNSEEN, SEEN, ALL = "unseen_tasks", "seen_tasks", "all_tasks"
HOSTILE_TEXT = "\x1b[2J\x1b]0;owned\x07\nerror: \u202eevil\r" + "x" * 100_000


def metadata(source: object = SOURCE, target: object = TARGET, **changes: object) -> dict[str, Any]:
    """Return a card's metadata as a push writes them, with changes."""
    return {
        "tags": ["gradtx_hf", TRANSLATOR_TAG],
        "base_model": [SOURCE, TARGET] if (source, target) == (SOURCE, TARGET) else [source, target],
        "gradtx_hf": {"source_base_model": {"id": source}, "target_base_model": {"id": target}},
        **changes,
    }


def results(gain: object, dataset: str = UNSEEN, **values: object) -> dict[str, Any]:
    """Return one result of a model-index: the gain recovered, and the scores of two methods."""
    metrics = [
        {"type": "gain_recovered", "name": "gain recovered, translated", "value": gain},
        {"type": "exact_match", "name": "exact_match, untouched", "value": 0.1},
        {"type": "exact_match", "name": "exact_match, translated", "value": 0.625},
    ]
    return {"dataset": {"type": dataset, "name": f"{dataset} (3 clients)"}, "metrics": metrics, **values}


def measured(*found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "translator", "results": list(found)}]
