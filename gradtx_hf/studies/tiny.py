"""The playground's studies, their whole way at toy size: few rules, rows and steps. The numbers mean nothing. Ours.

Models are tiny and hardly trained, of as many kinds as the study's: architectures and tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradtx_hf.studies.baseline_clients import BaselineSettings
from gradtx_hf.studies.cells import SINCE_ADDED, Cell, Clients, Study, World
from gradtx_hf.studies.full_weights_runs import FullWeightSettings
from gradtx_hf.studies.models import OF_ITS_OWN_KIND
from gradtx_hf.studies.shift_clients import ShiftStudySettings


WARNING = "A dry run: a few rules, rows and steps. No number here means anything."
RECIPE: dict[str, Any] = {"num_steps": 2, "warmup_steps": 0, "batch_size": 2, "learning_rate": 5e-3, "max_length": 32}
MOST_OF_WORLD = {"num_rules": 6, "runs_per_rule": 1, "samples_per_set": 4, "num_snapshots": 2, "num_target_runs": 3}
MOST_OF_CLIENTS = {
    "num_seen": 2,
    "num_unseen": 1,
    "num_members": 2,
    "num_mixed_rules": 2,
    "num_private_lines": 8,
    "num_parts": 2,
    "num_test_lines": 2,
    "num_ceiling_steps": 2,
    "num_public_steps": 2,
}
TRAINING = {
    "max_steps": 2,
    "warmup_steps": 0,
    "per_device_train_batch_size": 2,
    "linear_rank": 4,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
}


def tiny_study(study: Study) -> Study:
    """Return a study with the same cells, each of them small."""
    return replace(
        study,
        title=f"{study.title} (dry run)",
        note=f"{WARNING} {study.note}".strip(),
        training={**study.training, **TRAINING},
        world=replace(_tiny_world(study.world), source="source_tiny", target="target_tiny"),
        clients=_tiny_clients(study.clients),
        cells=tuple(_tiny_cell(cell) for cell in study.cells),
    )


def tiny_shift() -> ShiftStudySettings:
    """Return small settings of the study ``shift``."""
    return ShiftStudySettings(
        num_pairs=2,
        unseen_quarters=(0, 2),
        letter_ratios=(0.85,),
        num_private_lines=60,
        num_parts=1,
        num_test_lines=2,
        num_ceiling_steps=2,
        public_lines_per_rule=1,
        max_rows=50,
        num_permutations=19,
        source_recipe=RECIPE,
        target_recipe=RECIPE,
    )


def tiny_baselines() -> BaselineSettings:
    """Return small settings of the study ``baselines``."""
    refinement = {**RECIPE, "schedule": "constant"}
    return BaselineSettings(
        num_seen=2,
        num_unseen=2,
        num_private_lines=4,
        num_parts=2,
        num_test_lines=2,
        num_public_prompts=4,
        num_ceiling_steps=2,
        num_public_steps=2,
        world=_tiny_world(World(runs_per_rule=1, num_target_runs=None)),
        best_recipe=RECIPE,
        weak_recipe=RECIPE,
        refinement_recipe=refinement,
        refinement_steps=(0, RECIPE["num_steps"]),
        num_curve_lines=2,
    )


def tiny_full_weights() -> FullWeightSettings:
    """Return small settings of the study ``full_weights``."""
    settings = FullWeightSettings()
    return FullWeightSettings(
        world=_tiny_world(settings.world),
        clients=_tiny_clients(settings.clients),
        training={**settings.training, **TRAINING},
    )


def _tiny_world(world: World) -> World:
    most = {name: _at_most(getattr(world, name), most) for name, most in MOST_OF_WORLD.items()}
    return replace(world, **most, source="source", target="target", source_recipe=RECIPE, target_recipe=RECIPE)


def _tiny_clients(clients: Clients) -> Clients:
    return replace(
        clients,
        **{name: _at_most(getattr(clients, name), most) for name, most in MOST_OF_CLIENTS.items()},
        source_recipe=_tiny_recipe(clients.source_recipe),
    )


def _tiny_cell(cell: Cell) -> Cell:
    world = {name: _at_most(value, MOST_OF_WORLD[name]) for name, value in cell.world.items() if name in MOST_OF_WORLD}
    world |= {side: f"{name}_tiny" for side, name in cell.world.items() if name in OF_ITS_OWN_KIND}
    world |= {name: value for name, value in cell.world.items() if name in SINCE_ADDED}
    if "shadow_recipe" in cell.world:
        world["shadow_recipe"] = _tiny_recipe(cell.world["shadow_recipe"])
    clients = {name: _at_most(value, MOST_OF_CLIENTS.get(name, value)) for name, value in cell.clients.items()}
    if "source_recipe" in clients:
        clients["source_recipe"] = _tiny_recipe(clients["source_recipe"])
    together = clients.get("num_mixed_rules", clients.get("num_members") if clients.get("has_own_tasks") else None)
    if together is not None:  # rules that go into one translation
        clients |= {"num_seen": together, "num_unseen": together}
    return replace(cell, world=world, clients=clients, training={**cell.training, **_given(cell.training)})


def _given(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the toy's values of those arguments that a cell changes."""
    return {name: value for name, value in TRAINING.items() if name in training and training[name] != 0}


def _tiny_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: RECIPE.get(name, value) for name, value in recipe.items()}


def _at_most(value: Any, most: Any) -> Any:  # noqa: ANN401 - any setting
    """Return the smaller of two numbers; None and texts stay."""
    return min(value, most) if isinstance(value, int) and not isinstance(value, bool) else value
