"""A translator as a search on the Hub finds it: what its card's metadata say, which anybody may have written.

What is of another type or out of range counts as not stated, and names are short, printable and on one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from huggingface_hub.utils import parse_datetime  # type: ignore[attr-defined]  # no __all__ there

from gradtx_hf.errors import safe_text
from gradtx_hf.hub.destination import COMMIT_PATTERN, is_full_repo_id, is_repo_id
from gradtx_hf.hub.readme import PROVENANCE_KEY
from gradtx_hf.hub.results import TRANSLATED


MODEL_INDEX = "model-index"
"""Where the Hub gives a card's results: among its metadata, or beside them."""
GAIN_RECOVERED = "gain_recovered"
"""The metric's type in a ``model-index`` as ``Results.to_model_index`` writes it."""
DATASET_ORDER = ("unseen_tasks", "all_tasks", "seen_tasks")
"""What was measured on, the most telling first: how well new tasks are translated is what users want to know."""
LARGEST_VALUE = 1e6
"""Gains and scores beyond it, on both sides of 0, are no measurements."""
LONGEST_NAME = 60
"""Characters of a metric's or a data set's name."""
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Measured:
    """What an evaluation found, as the card states it; nobody has checked it.

    Attributes:
        gain_recovered: Share of the gap between the untouched target and its ceiling that translated adapters recover.
        dataset: What it was measured on, such as ``Unseen tasks (6 clients)``.
        dataset_type: Such as ``unseen_tasks``.
        metric: Such as ``exact_match``; None: not stated.
        score: That metric of the translated adapters; None: not stated.
    """

    gain_recovered: float
    dataset: str
    dataset_type: str
    metric: str | None
    score: float | None

    @property
    def place(self) -> int:
        """Place of the data set in ``DATASET_ORDER``; after it if it is none of them."""
        return DATASET_ORDER.index(self.dataset_type) if self.dataset_type in DATASET_ORDER else len(DATASET_ORDER)


@dataclass(frozen=True)
class FoundTranslator:
    """A translator on the Hub.

    Attributes:
        repo_id: ``owner/name``.
        source: Base model of the adapters that it reads.
        target: Base model of the adapters that it writes.
        measured: What its card states of an evaluation; None: nothing.
        commit: The commit that its main branch is now.
        last_modified: When that was made.
        is_private: Whether only some see it.
        is_gated: Whether access must be asked for.
    """

    repo_id: str
    source: str
    target: str
    measured: Measured | None
    commit: str | None
    last_modified: datetime | None
    is_private: bool
    is_gated: bool

    @classmethod
    def read(cls, item: object) -> FoundTranslator | None:
        """Read one entry of the Hub's list of models; None if its card is not that of a translator."""
        values = _mapping(item)
        card = _mapping(values.get("cardData"))
        models = _mapping(card.get(PROVENANCE_KEY))
        source = _model_name(_mapping(models.get("source_base_model")).get("id"))
        target = _model_name(_mapping(models.get("target_base_model")).get("id"))
        repo_id, commit = values.get("id"), values.get("sha")
        if source is None or target is None or not (isinstance(repo_id, str) and is_full_repo_id(repo_id)):
            return None
        return cls(
            repo_id=repo_id,
            source=source,
            target=target,
            measured=_read_measured(card.get(MODEL_INDEX) or values.get(MODEL_INDEX)),
            commit=commit if isinstance(commit, str) and COMMIT_PATTERN.fullmatch(commit) else None,
            last_modified=_read_date(values.get("lastModified")),
            is_private=values.get("private") is True,
            is_gated=values.get("gated") not in (None, False),
        )

    @property
    def rank(self) -> tuple[float, ...]:
        """What translators are sorted by.

        First those measured on unseen tasks, then on all, on seen and on other tasks, last those that are not measured;
        among equals the largest gain, then the newest.
        """
        age = math.inf if self.last_modified is None else -self.last_modified.timestamp()
        if self.measured is None:
            return (math.inf, 0.0, age)
        return (float(self.measured.place), -self.measured.gain_recovered, age)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        measured = self.measured
        return {
            "repo_id": self.repo_id,
            "commit": self.commit,
            "source": self.source,
            "target": self.target,
            "measured": None
            if measured is None
            else {
                "dataset": measured.dataset,
                "dataset_type": measured.dataset_type,
                "gain_recovered": measured.gain_recovered,
                "metric": measured.metric,
                "score": measured.score,
            },
            "last_modified": None if self.last_modified is None else self.last_modified.isoformat(),
            "private": self.is_private,
            "gated": self.is_gated,
        }


def _read_measured(model_index: object) -> Measured | None:
    """Return the most telling result of a ``model-index`` that states a gain."""
    results = [result for entry in _list(model_index) for result in _list(_mapping(entry).get("results"))]
    found = [measured for measured in map(_read_result, results) if measured is not None]
    return min(found, key=lambda measured: measured.place, default=None)


def _read_result(result: object) -> Measured | None:
    values = _mapping(result)
    dataset = _mapping(values.get("dataset"))
    metrics = [_mapping(metric) for metric in _list(values.get("metrics"))]
    gains = [_number(metric.get("value")) for metric in metrics if metric.get("type") == GAIN_RECOVERED]
    gain = next((gain for gain in gains if gain is not None), None)
    if gain is None:
        return None
    metric, score = _read_score(metrics)
    return Measured(
        gain_recovered=gain,
        dataset=_name(dataset.get("name")) or NOT_STATED,
        dataset_type=_name(dataset.get("type")) or NOT_STATED,
        metric=metric,
        score=score,
    )


def _read_score(metrics: Sequence[Mapping[str, Any]]) -> tuple[str | None, float | None]:
    """Return the metric that translated adapters were scored by, and their score."""
    for metric in metrics:
        kind = metric.get("type")
        if isinstance(kind, str) and kind and metric.get("name") == f"{kind}, {TRANSLATED}":
            return _name(kind), _number(metric.get("value"))
    return None, None


def _model_name(value: object) -> str | None:
    """Return a base model's name if it can be one: ``owner/name``, or ``name`` alone."""
    return value if isinstance(value, str) and is_repo_id(value) else None


def _read_date(value: object) -> datetime | None:
    try:
        return parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(value: object) -> str | None:
    return safe_text(" ".join(value[:LONGEST_NAME].split())) or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST_VALUE <= value <= LARGEST_VALUE else None  # which NaN is not either
