"""The clients of study ``baselines``: clients of the embedded translator, and the adapters fine-tuned on their lines.

A client's folder holds ``lines.jsonl`` and an adapter per method, by the method's name. The translator reads
``source_client``, fine-tuned as the translator wants its clients; whoever copies the small model's answers has
``source_best``, fine-tuned for the task itself, which nothing keeps a client from. Source: ours.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation.fine_tuning import FineTuningJob
from gradtx_hf.evaluation.method_settings import SOURCE_BEST, WEAK_MODEL, MethodSettings
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT
from gradtx_hf.finetuning import DataSource, FineTuningRecipe, Sample
from gradtx_hf.output import write_text
from gradtx_hf.playground import Rule, make_lines, split_rules, translator_path
from gradtx_hf.studies.cells import World
from gradtx_hf.studies.embedded_translator import SEED as TRANSLATOR_SEED
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT


PUBLIC_FINETUNE = "public_finetune"
LINES_FILE = "lines.jsonl"
Kind = Literal["private", "first", "second", "test"]
"""Of a client's lines: all private ones, their first or second half, or the held-out ones."""


@dataclass(frozen=True)
class BaselineSettings:
    """Every number of the study but its seed. Those of rivals were chosen on development rules.

    Attributes:
        num_seen: Clients of rules that have shadow sets, for each seed.
        num_unseen: Clients of rules that have none; the rules of one seed are not those of another until all had one.
        unseen: Which rules those are: ``development``, for choosing settings, or ``report``.
        num_private_lines: Lines of a client's private data.
        num_parts: Parts that a client divides them into for the translator, with a run on each.
        num_test_lines: Held-out lines of a client.
        num_public_prompts: Public inputs that are labelled in place of private ones, and distilled on.
        num_ceiling_steps: Steps of the ceilings.
        num_public_steps: Steps of the public fine-tune.
        world: The store that the controls and linear maps are fitted to; it has a target run for every shadow set.
        best_recipe: How a source is fine-tuned for the task itself.
        weak_recipe: How the target is fine-tuned on weak labels.
        max_alpha: Of Conf.
        temperature: Of VisSup.
        basis_rank: Of Cross-LoRA's bases; None: as many as the weights have.
        refinement_recipe: How the target is distilled into.
        refinement_steps: Steps at which the refined adapters are scored; the last ones stand in the table.
        num_curve_lines: Held-out lines of a client that the steps before the last are scored on.
    """

    num_seen: int = 4
    num_unseen: int = 8
    unseen: Literal["development", "report"] = "report"
    num_private_lines: int = 2048
    num_parts: int = 4
    num_test_lines: int = 100
    num_public_prompts: int = 1024
    num_ceiling_steps: int = 240
    num_public_steps: int = 480
    world: World = field(default_factory=lambda: World(runs_per_rule=1, num_target_runs=None))
    best_recipe: Mapping[str, Any] = field(
        default_factory=lambda: {
            "num_steps": 240,
            "warmup_steps": 30,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "max_length": 32,
        }
    )
    weak_recipe: Mapping[str, Any] = field(
        default_factory=lambda: {
            "num_steps": 120,
            "warmup_steps": 30,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "max_length": 32,
        }
    )
    max_alpha: float = 0.5
    temperature: float = 1.0
    basis_rank: int | None = None
    refinement_recipe: Mapping[str, Any] = field(
        default_factory=lambda: {
            "num_steps": 80,
            "warmup_steps": 5,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "schedule": "constant",
            "max_length": 32,
        }
    )
    refinement_steps: tuple[int, ...] = (0, 5, 10, 20, 40, 80)
    num_curve_lines: int = 50

    def __post_init__(self) -> None:
        """Check that the numbers go together.

        Raises:
            ConfigurationError: If they do not.
        """
        num_rules = len(self.rules(seen=False))
        if self.num_seen < 2 or not 2 <= self.num_unseen <= num_rules:
            raise ConfigurationError(
                f"got num_seen={self.num_seen} and num_unseen={self.num_unseen}, expected at least 2, and at most "
                f"{num_rules} unseen rules: each client is shown another's adapter."
            )
        steps = self.refinement_steps
        if list(steps) != sorted(set(steps)) or steps[-1:] != (self.refinement_recipe["num_steps"],):
            raise ConfigurationError(
                f"got refinement_steps={steps}, expected rising numbers that end with the recipe's num_steps="
                f"{self.refinement_recipe['num_steps']}."
            )

    def rules(self, *, seen: bool) -> list[Rule]:
        """Return the rules that clients may have, in a fixed order that mixes them."""
        split = split_rules("full", seed=TRANSLATOR_SEED)
        rules = list(split.seen if seen else split.development if self.unseen == "development" else split.report)
        random.Random("clients of the baselines").shuffle(rules)
        return rules

    @property
    def methods(self) -> MethodSettings:
        """How rivals are trained."""
        return MethodSettings(
            best_recipe=self.best_recipe,
            weak_recipe=self.weak_recipe,
            refinement_recipe=self.refinement_recipe,
            num_public_prompts=self.num_public_prompts,
            max_alpha=self.max_alpha,
            temperature=self.temperature,
            basis_rank=self.basis_rank,
        )

    def recipes(self) -> dict[str, FineTuningRecipe]:
        """Return how the adapters of a client's own lines are fine-tuned, by method."""
        world = self.world
        return {
            name: FineTuningRecipe.from_dict(values)
            for name, values in {
                SOURCE_CLIENT: {**world.source_recipe, "num_parts": self.num_parts},
                SOURCE_BEST: self.best_recipe,
                WEAK_MODEL: self.best_recipe,
                CEILING: {**world.target_recipe, "num_steps": self.num_ceiling_steps},
                PUBLIC_FINETUNE: {**world.target_recipe, "num_steps": self.num_public_steps},
            }.items()
        }


@dataclass(frozen=True)
class BaselineClient:
    """One client.

    Attributes:
        rule: Its rule.
        seen: Whether the rule has shadow sets.
        seed: The study seed.
        home: Its folder.
    """

    rule: Rule
    seen: bool
    seed: int
    home: Path

    @property
    def training_seed(self) -> int:
        """Seed of all its fine-tuning."""
        return 1 + self.seed

    def lines(self, settings: BaselineSettings, kind: Kind) -> Sample:
        """Write its lines, if they are not there, and return some of them.

        Args:
            settings: How many there are.
            kind: Which.
        """
        path, private = self.home / LINES_FILE, settings.num_private_lines
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = f"baselines {self.seed} {self.rule.name}"
            rows = make_lines([self.rule], private + settings.num_test_lines, seed=seed)
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        first, end = {
            "private": (0, private),
            "first": (0, private // 2),
            "second": (private // 2, private),
            "test": (private, private + settings.num_test_lines),
        }[kind]
        return Sample(DataSource(path=str(path), split=f"train[{first}:{end}]"))


def baseline_clients(settings: BaselineSettings, folder: Path, *, seed: int) -> list[BaselineClient]:
    """Return the clients of one seed, those of seen rules first."""
    clients = []
    for seen, number in ((True, settings.num_seen), (False, settings.num_unseen)):
        rules = settings.rules(seen=seen)
        chosen = [rules[(seed * number + i) % len(rules)] for i in range(number)]
        home = folder / f"seed-{seed}"
        clients += [BaselineClient(rule, seen, seed, home / rule.name) for rule in chosen]
    return clients


def fine_tuning_jobs(client: BaselineClient, settings: BaselineSettings) -> list[FineTuningJob]:
    """Return the adapters of a client's own lines that are not there yet."""
    wanted: list[tuple[str, str, Kind]] = [
        (SOURCE_CLIENT, SOURCE_INIT, "private"),
        (SOURCE_BEST, SOURCE_INIT, "private"),
        (WEAK_MODEL, SOURCE_INIT, "first"),
        (CEILING, TARGET_INIT, "private"),
    ]
    return [
        FineTuningJob(
            str(translator_path() / init),
            (client.lines(settings, kind),),
            "",
            settings.recipes()[name],
            client.training_seed,
            str(client.home / name),
        )
        for name, init, kind in wanted
        if not (client.home / name).is_dir()
    ]


def settings_as_json(settings: BaselineSettings) -> dict[str, Any]:
    """Return all settings as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return values
