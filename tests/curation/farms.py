"""A curation that is done over and over, on one machine and on many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.updates.store import UpdateStore
from tests.curation.world import RULES, save_model, write_lines


RECIPE = {"num_steps": 5, "batch_size": 4, "learning_rate": 1e-2, "max_length": 32}


def small_curation(folder: Path) -> CurationArguments:
    """Make models and data in a folder; return a curation of three packs of source runs and three target runs."""
    return CurationArguments(
        source_model=str(save_model(folder / "source", hidden_size=8, num_layers=2, seed=0)),
        target_model=str(save_model(folder / "target", hidden_size=16, num_layers=3, seed=1)),
        output_dir="",
        corpora=[
            {"path": str(write_lines(folder / f"{rule.name}.jsonl", rule, 24)), "label": rule.name} for rule in RULES
        ],
        num_shadow_sets=5,
        num_target_runs=3,
        samples_per_set=16,
        num_snapshots=3,
        source_recipe=RECIPE,
        target_recipe=RECIPE,
        pack=2,
        target_pack=1,
    )


def curated(arguments: CurationArguments, folder: Path) -> dict[str, bytes]:
    curate(replace(arguments, output_dir=str(folder)))
    UpdateStore.open(folder).verify()
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
