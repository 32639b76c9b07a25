"""Task: one data set's prompts, completions and scorer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradtx_hf.errors import ConfigurationError


ScoreName = Literal["exact_match", "rouge1"]
ANSWER_MARK = "####"
"""What stands before the final answer, after any reasoning (GSM8K's own mark, for all with a short answer)."""


@dataclass(frozen=True)
class TaskExample:
    """One question.

    Attributes:
        prompt: What the model is given.
        completion: What it learns to write: the reasoning where the data have it, and the answer.
        references: Answers that are right, as ``Task.score`` compares them; at least one.
    """

    prompt: str
    completion: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One data set's prompts, completions and scorer.

    Attributes:
        name: Short name, in snake case.
        data_set: Id of the data set on the Hub.
        config: Its configuration there, if it has several.
        splits: Its splits that have answers.
        examples: One raw row, of the Hub's schema or of the original files', to its questions; a row without an
            answer gives none.
        score: A completion and its references to a score in [0, 1].
        score_name: What the mean of the scores is called.
        max_new_tokens: Most tokens that a completion needs, with a tokenizer of usual size.
        example_row: One raw row of the Hub's schema, made up; dry runs are made of it.
    """

    name: str
    data_set: str
    splits: tuple[str, ...]
    examples: Callable[[Mapping[str, Any]], Sequence[TaskExample]]
    score: Callable[[str, Sequence[str]], float]
    score_name: ScoreName = "exact_match"
    config: str | None = None
    max_new_tokens: int = 256
    example_row: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigurationError: If it is not in snake case.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", self.name):
            raise ConfigurationError(
                f"got task name {self.name!r}, expected small letters, digits, single underscores."
            )
