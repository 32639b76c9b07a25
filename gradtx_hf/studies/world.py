"""The rules, data and folders of one seed of a study.

A study's folder holds:

    study.json                    which study it is
    models/NAME/                  models that the study pretrained
    seed-S/data/                  lines of the rules, public and private
    seed-S/stores/KEY/            a store per world
    seed-S/clients/KEY/           a pair's clients: their adapters and ceilings, and the scores of the controls
    seed-S/translators/KEY/       a translator per world and training
    cells/seed-S/CELL/result.json what a cell scores: its existence means done
    report.{json,md,png}

KEY is a digest of the settings, so that cells share what they have in common, and nothing of other settings is taken
for theirs. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradtx_hf.curation import CurationArguments
from gradtx_hf.output import write_text
from gradtx_hf.playground import Rule, make_lines, split_rules
from gradtx_hf.studies.cells import Cell, Clients, Study, World
from gradtx_hf.studies.models import model_folder


KEY_DIGITS = 12
PUBLIC_LINES_PER_SAMPLE = 4
"""Public lines of a rule, for each line of a shadow set: runs of a rule share a quarter of their lines on average."""


@dataclass(frozen=True)
class Place:
    """Where one seed of a study keeps what it makes.

    Attributes:
        folder: The study's folder.
        seed: The study seed: it draws the split of the rules, the data, the runs and the translators.
    """

    folder: Path
    seed: int

    @property
    def home(self) -> Path:
        """The seed's own folder."""
        return self.folder / f"seed-{self.seed}"

    def store(self, world: World) -> Path:
        """Return the folder of a world's store."""
        return self.home / "stores" / key_of(asdict(world))

    def clients(self, study: Study, cell: Cell) -> Path:
        """Return the folder of a cell's clients and of their controls."""
        return self.home / "clients" / key_of([asdict(study.control_world_of(cell)), asdict(study.clients)])

    def translator(self, study: Study, cell: Cell) -> Path:
        """Return the folder of a cell's translator."""
        return self.home / "translators" / key_of([asdict(study.world_of(cell)), study.training_of(cell)])

    def result(self, cell: Cell) -> Path:
        """Return the file of a cell's scores."""
        return self.folder / "cells" / f"seed-{self.seed}" / cell.name / "result.json"


def key_of(settings: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return a digest of settings: the same for the same JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def public_rules(seed: int, num_rules: int) -> list[Rule]:
    """Return the rules that have shadow sets; fewer are the first of more."""
    rules = list(split_rules("full", seed=seed).seen)
    random.Random(f"order of the seen rules {seed}").shuffle(rules)
    return rules[:num_rules]


def curation_arguments(world: World, place: Place, *, num_workers: int) -> CurationArguments:
    """Write a world's public lines and return how its store is curated."""
    num_lines = PUBLIC_LINES_PER_SAMPLE * world.samples_per_set
    corpora = []
    for rule in public_rules(place.seed, world.num_rules):
        path = _lines_file(place, f"public-{num_lines}", rule, num_lines)
        corpora.append({"path": str(path), "label": rule.name})
    return CurationArguments(
        source_model=str(model_folder(world.source, place.folder)),
        target_model=str(model_folder(world.target, place.folder)),
        output_dir=str(place.store(world)),
        corpora=corpora,
        mixture="single",
        num_shadow_sets=world.num_shadow_sets,
        num_target_runs=world.num_target_runs,
        samples_per_set=world.samples_per_set,
        num_snapshots=world.num_snapshots,
        rank=2,
        alpha=16,
        dropout=0.0,
        source_recipe=dict(world.source_recipe),
        target_recipe=dict(world.target_recipe),
        seed=place.seed,
        num_workers=num_workers,
    )


def client_values(clients: Clients, place: Place) -> list[dict[str, Any]]:
    """Write the clients' lines and return the clients, as values of ``ClientData.from_dict``: seen ones first."""
    split = split_rules("full", seed=place.seed)
    unseen = list(split.development if clients.unseen == "development" else split.report)
    chosen = [(rule, True) for rule in public_rules(place.seed, clients.num_seen)]
    chosen += [(rule, False) for rule in random.Random(place.seed).sample(unseen, clients.num_unseen)]
    values = []
    for rule, seen in chosen:
        num_lines = clients.num_private_lines + clients.num_test_lines
        path = str(_lines_file(place, f"private-{num_lines}", rule, num_lines))
        values.append(
            {
                "task": rule.name,
                "seen": seen,
                "seed": 1 + place.seed,
                "train": {"path": path, "split": f"train[:{clients.num_private_lines}]"},
                "test": {"path": path, "split": f"train[{clients.num_private_lines}:]"},
            }
        )
    return values


def _lines_file(place: Place, kind: str, rule: Rule, num_lines: int) -> Path:
    path = place.home / "data" / f"{kind}-{rule.name}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = make_lines([rule], num_lines, seed=f"{kind} {place.seed} {rule.name}")
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path
