"""One story, told with few lines, for all tests of the app."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gradtx_hf.demo import story
from gradtx_hf.demo.client_run import ClientRun
from gradtx_hf.playground import Rule
from gradtx_hf.translation import TranslatedAdapter


RULE = Rule("identity", 7)
NUM_LINES = 256


@dataclass(frozen=True, eq=False)
class Told:
    """A story that was told to its end.

    Attributes:
        data: The private lines.
        run: The fine-tuning.
        translated: The translation.
        steps: What was told of the steps: taken, and in all.
    """

    data: story.PrivateData
    run: ClientRun
    translated: TranslatedAdapter
    steps: list[tuple[int, int]]


@pytest.fixture(scope="session", autouse=True)
def _few_lines() -> Iterator[None]:
    """Let every client of these tests have few lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "NUM_LINES", NUM_LINES)
        yield


@pytest.fixture(scope="session")
def told() -> Told:
    """Return a story of a rule that the embedded translator knows."""
    steps: list[tuple[int, int]] = []
    data = story.rule_data(RULE)
    run = story.fine_tune_source(data, epsilon=None, on_progress=lambda step, total: steps.append((step, total)))
    return Told(data, run, story.translate(run.adapter), steps)
