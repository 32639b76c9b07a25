"""The embedded world: edit rules on six letters, and the text that the embedded models speak.

A rule is one of twelve rearrangements of six letters followed by one of twelve shifts of a twelve-letter
alphabet: 144 rules. A line of text is ``<tags><input>=<output>``, where the two tags name the rule or are
hidden as ``??``. A client's private data are ``??`` lines of its own rule: the input never says what is
wanted, so an update that ignores the client cannot score.

Source: ours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


LETTERS = "abcdefghijkl"
NUM_POSITIONS = 6
HIDDEN = "?"
REARRANGEMENTS: dict[str, tuple[int, ...]] = {
    "identity": (0, 1, 2, 3, 4, 5),
    "reverse": (5, 4, 3, 2, 1, 0),
    "rotate_1": (1, 2, 3, 4, 5, 0),
    "rotate_2": (2, 3, 4, 5, 0, 1),
    "swap_neighbours": (1, 0, 3, 2, 5, 4),
    "swap_halves": (3, 4, 5, 0, 1, 2),
    "rotate_4": (4, 5, 0, 1, 2, 3),
    "rotate_5": (5, 0, 1, 2, 3, 4),
    "reverse_halves": (2, 1, 0, 5, 4, 3),
    "swap_ends": (5, 1, 2, 3, 4, 0),
    "odds_first": (0, 2, 4, 1, 3, 5),
    "interleave": (0, 3, 1, 4, 2, 5),
}
"""Output position i takes the letter at input position ``REARRANGEMENTS[name][i]``."""
REARRANGEMENT_TAGS = dict(zip(REARRANGEMENTS, "ABCDEFGHIJKL", strict=True))
SHIFT_TAGS = "MNOPQRSTUVWX"

Preset = Literal["full", "small"]


@dataclass(frozen=True, order=True)
class Rule:
    """One edit rule.

    Attributes:
        rearrangement: A key of ``REARRANGEMENTS``.
        shift: Steps forward in the alphabet, in 0…11, applied after the rearrangement.
    """

    rearrangement: str
    shift: int

    @property
    def name(self) -> str:
        """The rule's name, such as ``reverse+3``."""
        return f"{self.rearrangement}+{self.shift}"

    @property
    def tags(self) -> str:
        """The two characters that name the rule in a line of pretraining text."""
        return REARRANGEMENT_TAGS[self.rearrangement] + SHIFT_TAGS[self.shift]

    def apply(self, text: str) -> str:
        """Return the output for six input letters."""
        order = REARRANGEMENTS[self.rearrangement]
        return "".join(LETTERS[(LETTERS.index(text[i]) + self.shift) % len(LETTERS)] for i in order)


@dataclass(frozen=True)
class RuleSplit:
    """Rules by what a translator may know of them.

    Attributes:
        seen: Rules with shadow sets.
        development: Rules without shadow sets, for choosing settings.
        report: Rules without shadow sets, scored once for a report.
    """

    seen: tuple[Rule, ...]
    development: tuple[Rule, ...]
    report: tuple[Rule, ...]


def split_rules(preset: Preset, *, seed: int) -> RuleSplit:
    """Split a preset's rules into seen, unseen for development and unseen for the report.

    Args:
        preset: ``full``: 144 rules as 108, 12 and 24. ``small``: six rearrangements by shifts 0…5, 36 rules
            as 27, 0 and 9.
        seed: Seed of the split.
    """
    num_rearrangements, num_shifts, num_development, num_report = {
        "full": (12, 12, 12, 24),
        "small": (6, 6, 0, 9),
    }[preset]
    rules = [Rule(r, s) for r in list(REARRANGEMENTS)[:num_rearrangements] for s in range(num_shifts)]
    random.Random(seed).shuffle(rules)
    development = rules[:num_development]
    report = rules[num_development : num_development + num_report]
    seen = rules[num_development + num_report :]
    return RuleSplit(tuple(sorted(seen)), tuple(sorted(development)), tuple(sorted(report)))


def make_lines(rules: Sequence[Rule], num_lines: int, *, seed: str | int) -> list[dict[str, str]]:
    """Write lines with hidden tags, each of a rule drawn from ``rules``, no input twice.

    Args:
        rules: The rules to draw from; a client's data have one.
        num_lines: Number of lines.
        seed: Seed of the drawing; a string is hashed, the same on every machine.

    Returns:
        Rows with ``prompt`` (``??abcdef=``) and ``completion`` (six letters).
    """
    generator = random.Random(seed)
    rows: list[dict[str, str]] = []
    inputs: set[str] = set()
    while len(rows) < num_lines:
        text = "".join(generator.choices(LETTERS, k=NUM_POSITIONS))
        rule = generator.choice(rules)
        if text not in inputs:
            inputs.add(text)
            rows.append({"prompt": f"{HIDDEN * 2}{text}=", "completion": rule.apply(text)})
    return rows
