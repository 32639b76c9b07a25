"""The rules, data and folders of one seed of a study.

A study's folder holds:

    study.json                    which study it is
    models/NAME/                  models that the study pretrained
    seed-S/data/                  lines of the rules, public and private
    seed-S/stores/KEY/            a store per world
    seed-S/sources/KEY/           clients' adapters
    seed-S/public/KEY/            the public fine-tune, a control
    seed-S/ceilings/KEY/          clients' ceilings, and what they, the untouched target and the public fine-tune score
    seed-S/clients/KEY/           the scores of the controls that read these adapters
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
from gradtx_hf.studies.cells import Cell, Study, World
from gradtx_hf.studies.models import model_folder


KEY_DIGITS = 12
PUBLIC_LINES_PER_SAMPLE = 4
"""Public lines of a rule, for each line of a shadow set: runs of a rule share a quarter of their lines on average."""
HOW_CLIENTS_TRAIN = ("aggregation", "num_parts", "source_recipe", "privacy")
"""Fields of ``Clients`` that change neither their lines nor their ceilings."""


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
        return self.home / "stores" / key_of(world.to_dict())

    def clients(self, study: Study, cell: Cell) -> Path:
        """Return the folder of the controls that read a cell's clients."""
        return self._of_clients("clients", study, cell, without=())

    def sources(self, study: Study, cell: Cell) -> Path:
        """Return the folder of a cell's clients' adapters."""
        return self._of_clients("sources", study, cell, without=("aggregation",))

    def ceilings(self, study: Study, cell: Cell) -> Path:
        """Return the folder of a cell's ceilings, which do not depend on how clients train."""
        return self._of_clients("ceilings", study, cell, without=HOW_CLIENTS_TRAIN)

    def translator(self, study: Study, cell: Cell) -> Path:
        """Return the folder of a cell's translator."""
        return self.home / "translators" / key_of([study.world_of(cell).to_dict(), study.training_of(cell)])

    def public_finetune(self, study: Study, cell: Cell) -> Path:
        """Return the folder of the public fine-tune, one for all clients of a pair."""
        num_steps = study.clients_of(cell).num_public_steps
        return self.home / "public" / key_of([study.control_world_of(cell).to_dict(), num_steps])

    def result(self, cell: Cell) -> Path:
        """Return the file of a cell's scores."""
        return self.folder / "cells" / f"seed-{self.seed}" / cell.name / "result.json"

    def _of_clients(self, kind: str, study: Study, cell: Cell, *, without: Sequence[str]) -> Path:
        settings = {name: value for name, value in asdict(study.clients_of(cell)).items() if name not in without}
        return self.home / kind / key_of([study.control_world_of(cell).to_dict(), settings])


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
        path = lines_file(place, f"public-{num_lines}", rule, num_lines)
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
        source_recipe={**world.source_recipe, **world.shadow_recipe},
        target_recipe=dict(world.target_recipe),
        source_target_modules=list(world.source_modules),
        target_target_modules=list(world.target_modules),
        token_kinds=dict(world.token_kinds) or None,
        seed=place.seed,
        num_workers=num_workers,
    )


def lines_file(place: Place, kind: str, rule: Rule, num_lines: int) -> Path:
    """Return the file of one rule's lines, which is written if it is not there."""
    path = place.home / "data" / f"{kind}-{rule.name}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = make_lines([rule], num_lines, seed=f"{kind} {place.seed} {rule.name}")
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path
