"""The clients of study ``shift``: their private data move away from the public, in their rule or in their letters.

The embedded translator serves all of them. A client's texts can be like the public ones while its rule has no shadow
set, or they can be others while its rule has: so both halves of what a shift may be are set apart. Source: ours.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation import ClientScores
from gradtx_hf.evaluation.arguments import ClientData
from gradtx_hf.evaluation.client_scoring import ScoringJob, perform_scoring
from gradtx_hf.evaluation.fine_tuning import FineTuningJob
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.finetuning import FineTuningRecipe, load_examples, load_language_model
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import write_json, write_text
from gradtx_hf.playground import Rule, make_lines, source_path, split_rules, translator_path
from gradtx_hf.playground.recipes import source_recipe, target_recipe
from gradtx_hf.playground.world import HIDDEN, LETTERS, NUM_POSITIONS
from gradtx_hf.privacy.shift import ShiftSettings, measure_shift
from gradtx_hf.studies.clients import SCORING, SHUFFLED_INPUT, merged
from gradtx_hf.studies.embedded_translator import SEED as TRANSLATOR_SEED
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator


Series = Literal["rule", "letters, seen rule", "letters, unseen rule"]
CLIENT_FILE = "client.json"
NUM_DEVELOPMENT_RULES = 12


@dataclass(frozen=True)
class Condition:
    """How a client's data differ from the public ones.

    Attributes:
        series: Which way they move.
        unseen_quarters: Quarters of the lines that are of an unseen rule; the others are of a seen one.
        letter_ratio: Weight of every letter of the alphabet over the one before it; 1: all alike, as in public data.
    """

    series: Series
    unseen_quarters: int
    letter_ratio: float

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.series == "rule":
            return f"{self.unseen_quarters / 4:.0%} of lines of an unseen rule"
        return f"{'un' if self.unseen_quarters else ''}seen rule, letter ratio {self.letter_ratio:g}"


@dataclass(frozen=True)
class ShiftStudySettings:
    """Every number of the study but its seed.

    Attributes:
        num_pairs: Pairs of a seen and an unseen rule; each has a client in every condition. Unseen ones are of the
            development rules.
        unseen_quarters: Quarters of lines of the unseen rule, by condition.
        letter_ratios: Ratios of the letters' weights, by condition, beside 1.
        num_private_lines: Lines of a client's private data.
        num_parts: Parts that a client divides them into, with a run on each.
        num_test_lines: Held-out lines of a client, of the same mixture and letters.
        num_ceiling_steps: Steps of the ceilings.
        public_lines_per_rule: Lines of each of the 108 public rules that private ones are compared with.
        max_rows: Most rows of either side that are compared.
        num_permutations: Relabelled samples of the permutation test.
        source_recipe: How clients fine-tune.
        target_recipe: How ceilings are fine-tuned.
    """

    num_pairs: int = 4
    unseen_quarters: tuple[int, ...] = (0, 1, 2, 3, 4)
    letter_ratios: tuple[float, ...] = (0.95, 0.85, 0.7)
    num_private_lines: int = 2048
    num_parts: int = 4
    num_test_lines: int = 100
    num_ceiling_steps: int = 240
    public_lines_per_rule: int = 20
    max_rows: int = 1000
    num_permutations: int = 99
    source_recipe: Mapping[str, Any] = field(default_factory=source_recipe)
    target_recipe: Mapping[str, Any] = field(default_factory=target_recipe)

    def __post_init__(self) -> None:
        """Check the number of pairs.

        Raises:
            ConfigurationError: If there are fewer than two, or more than development rules.
        """
        if not 2 <= self.num_pairs <= NUM_DEVELOPMENT_RULES:
            raise ConfigurationError(
                f"got num_pairs={self.num_pairs}, expected 2 to {NUM_DEVELOPMENT_RULES}: each has its own unseen rule."
            )

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions, series by series."""
        found = [Condition("rule", quarters, 1.0) for quarters in self.unseen_quarters]
        found += [Condition("letters, seen rule", 0, ratio) for ratio in self.letter_ratios]
        found += [Condition("letters, unseen rule", 4, ratio) for ratio in self.letter_ratios]
        return tuple(found)


@dataclass(frozen=True)
class ShiftedClient:
    """One client.

    Attributes:
        condition: How its data differ.
        pair: Number of its pair of rules.
        rules: The seen rule and the unseen one.
        seed: The study seed.
        home: Its folder.
    """

    condition: Condition
    pair: int
    rules: tuple[Rule, Rule]
    seed: int
    home: Path

    @property
    def task(self) -> str:
        """What reports call it: its rules and how its data differ."""
        seen, unseen = (rule.name for rule in self.rules)
        names = {0: seen, 4: unseen}.get(self.condition.unseen_quarters, f"{seen} and {unseen}")
        return f"{names}: {self.condition.label}"

    def data(self, settings: ShiftStudySettings) -> ClientData:
        """Write its lines, if they are not there, and return where they are."""
        path = self.home / "lines.jsonl"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            quarters = self.condition.unseen_quarters
            rows = skewed_lines(
                [self.rules[0]] * (4 - quarters) + [self.rules[1]] * quarters,
                settings.num_private_lines + settings.num_test_lines,
                letter_ratio=self.condition.letter_ratio,
                seed=f"shift {self.seed} {self.pair} {self.condition}",
            )
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        split = settings.num_private_lines
        return ClientData.from_dict(
            {
                "task": self.task,
                "seen": {0: True, 4: False}.get(self.condition.unseen_quarters),
                "seed": 1 + self.seed,
                "train": {"path": str(path), "split": f"train[:{split}]"},
                "test": {"path": str(path), "split": f"train[{split}:]"},
            }
        )


@dataclass(frozen=True)
class ClientMeasurement:
    """A client to translate, to score, and whose shift to measure; ``partner`` gives the shuffled input."""

    client: ShiftedClient
    partner: ShiftedClient
    settings: ShiftStudySettings


def shifted_clients(settings: ShiftStudySettings, folder: Path, *, seed: int) -> list[ShiftedClient]:
    """Return all clients of a seed, condition by condition."""
    split = split_rules("full", seed=TRANSLATOR_SEED)
    generator = random.Random(f"pairs of rules {seed}")
    seen, unseen = (generator.sample(rules, settings.num_pairs) for rules in (split.seen, split.development))
    pairs = list(zip(seen, unseen, strict=True))
    return [
        ShiftedClient(condition, pair, rules, seed, folder / f"seed-{seed}" / f"{i:02d}-{pair:02d}")
        for i, condition in enumerate(settings.conditions)
        for pair, rules in enumerate(pairs)
    ]


def skewed_lines(rules: Sequence[Rule], num_lines: int, *, letter_ratio: float, seed: str) -> list[dict[str, str]]:
    """Write lines as ``make_lines`` does, with letters of unequal weight; no input twice.

    Args:
        rules: The rules to draw from, each line's alike.
        num_lines: Number of lines.
        letter_ratio: Weight of every letter over the one before it, in (0, 1].
        seed: Seed of the drawing.
    """
    generator = random.Random(seed)
    weights = [letter_ratio**i for i in range(len(LETTERS))]
    inputs: dict[str, Rule] = {}
    while len(inputs) < num_lines:
        text = "".join(generator.choices(LETTERS, weights, k=NUM_POSITIONS))
        inputs.setdefault(text, generator.choice(rules))
    return [{"prompt": f"{HIDDEN * 2}{text}=", "completion": rule.apply(text)} for text, rule in inputs.items()]


def public_lines(settings: ShiftStudySettings) -> Dataset:
    """Return the first lines of every corpus that the embedded translator was trained on."""
    rules = split_rules("full", seed=TRANSLATOR_SEED).seen
    return Dataset.from_list([row for rule in rules for row in public_corpus(rule, settings.public_lines_per_rule)])


def public_corpus(rule: Rule, num_lines: int) -> list[dict[str, str]]:
    """Return the first lines of one corpus of the embedded translator's."""
    return make_lines([rule], num_lines, seed=f"public {TRANSLATOR_SEED} {rule.name}")


def fine_tuning_jobs(client: ShiftedClient, settings: ShiftStudySettings) -> list[FineTuningJob]:
    """Return the adapters of a client that are still to be fine-tuned: its own, and its ceiling."""
    data = client.data(settings)
    recipes = {
        "source": (SOURCE_INIT, {**settings.source_recipe, "num_parts": settings.num_parts}),
        "ceiling": (TARGET_INIT, {**settings.target_recipe, "num_steps": settings.num_ceiling_steps}),
    }
    return [
        FineTuningJob(
            init=str(translator_path() / init),
            samples=data.train,
            store="",
            recipe=FineTuningRecipe.from_dict(recipe),
            seed=data.seed,
            output_dir=str(client.home / name),
        )
        for name, (init, recipe) in recipes.items()
        if not (client.home / name).is_dir()
    ]


def measure_client(job: ClientMeasurement) -> None:
    """Translate and score one client, measure its shift, and write ``client.json``: its existence means done."""
    data = job.client.data(job.settings)
    translator = PeftTranslator.from_pretrained(translator_path())
    source = load_adapter(job.client.home / "source")
    translated = translator.translate(source)
    shuffled = translator.translate(load_adapter(job.partner.home / "source"))
    states = {
        TARGET_UNTOUCHED: translator.target_init.tensors,
        SHUFFLED_INPUT: shuffled.tensors,
        TRANSLATED: translated.tensors,
        CEILING: load_adapter(job.client.home / "ceiling").tensors,
    }
    scores = merged(_scores(data, SOURCE_INIT, {SOURCE_CLIENT: source.tensors}), _scores(data, TARGET_INIT, states))
    model, tokenizer = load_language_model(str(source_path()), max_length=SCORING.max_length)
    private = load_examples(data.train[0].source)
    shift = measure_shift(
        [public_lines(job.settings)],
        private,
        model=model,
        tokenizer=tokenizer,
        settings=ShiftSettings(
            max_length=SCORING.max_length,
            max_rows=job.settings.max_rows,
            num_permutations=job.settings.num_permutations,
            batch_size=256,
            seed=job.client.seed,
        ),
    )
    write_json(
        job.client.home / CLIENT_FILE,
        {
            "condition": asdict(job.client.condition),
            "pair": job.client.pair,
            "scores": asdict(scores),
            "shift": asdict(shift),
            **{name: translated.report["adapters"][0][name] for name in ("input_distance", "input_distance_limit")},
        },
    )


def _scores(data: ClientData, init: str, states: Mapping[str, Any]) -> ClientScores:
    scored = perform_scoring(ScoringJob(str(translator_path() / init), dict(states), data.test, SCORING))
    return ClientScores(
        data.task,
        data.seen,
        {name: found.score for name, found in scored.items()},
        seed=data.seed,
        nats_per_token={name: found.nats_per_token for name, found in scored.items()},
    )
