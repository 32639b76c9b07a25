"""What a study would do and cost, before anything is run or written. Source: ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.cells import Cell, Study, World
from gradtx_hf.studies.models import EMBEDDED, PRETRAINED
from gradtx_hf.studies.world import key_of


def render_plan(study: Study, cells: Sequence[Cell], *, num_seeds: int) -> str:
    """Return the cells, what each changes, and what a run would cost, in optimizer steps.

    Args:
        study: The study.
        cells: The cells to run.
        num_seeds: Study seeds.
    """
    rows, trained = [], set()
    for cell in cells:
        training = study.training_of(cell)
        key = key_of([asdict(study.world_of(cell)), training])
        steps = f"{training['max_steps']:,}" if key not in trained else "shared with a cell above"
        trained.add(key)
        noise = {"client_noise": cell.client_noise} if cell.client_noise else {}
        rows.append([cell.name, cell.label, _changes({**cell.world, **cell.training, **noise}), steps])
    sections = [
        f"{study.name}: {study.title}",
        study.question,
        markdown_table(["cell", "label", "changes", "training steps"], rows),
        "Shared by the cells, for each seed:\n\n"
        + markdown_table(["what", "how many", "steps each"], _shared(study, cells)),
        f"{len(cells)} cells by {num_seeds} seed{'' if num_seeds == 1 else 's'}. Nothing was run or written.",
    ]
    return "\n\n".join(sections)


def _shared(study: Study, cells: Sequence[Cell]) -> list[list[str]]:
    """Return the runs that cells share: of stores, of clients, and, once for all seeds, of models."""
    controls = [study.control_world_of(cell) for cell in cells]
    stores = _different([world for cell in cells for world in (study.control_world_of(cell), study.world_of(cell))])
    rows = []
    for world in stores:
        num_target_runs = world.num_shadow_sets if world.num_target_runs is None else world.num_target_runs
        name = f"{world.source} → {world.target}, {world.num_rules} rules of {world.runs_per_rule} runs"
        source_steps, target_steps = world.source_recipe["num_steps"], world.target_recipe["num_steps"]
        rows.append([f"source runs of the store {name}", f"{world.num_shadow_sets}", f"{source_steps}"])
        rows.append([f"target runs of the store {name}", f"{num_target_runs}", f"{target_steps}"])
    pairs, clients = _different(controls), study.clients
    num_clients = len(pairs) * (clients.num_seen + clients.num_unseen)
    steps = ", ".join(sorted({str(world.source_recipe["num_steps"]) for world in pairs}))
    rows.append(["clients", str(num_clients), steps])
    rows.append(["ceilings", str(num_clients), str(clients.num_ceiling_steps)])
    rows.append(["public fine-tunes", str(len(pairs)), str(clients.num_public_steps)])
    models = dict.fromkeys(name for world in stores for name in (world.source, world.target) if name not in EMBEDDED)
    for name in models:
        num_steps = sum(stage.num_steps for stage in PRETRAINED[name].stages)
        rows.append([f"pretraining of {name}, once for all seeds", "1", str(num_steps)])
    return rows


def _different(worlds: Sequence[World]) -> list[World]:
    return list({key_of(asdict(world)): world for world in worlds}.values())


def _changes(changes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "nothing"
