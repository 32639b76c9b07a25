"""What a study would do and cost, before anything is run or written. Source: ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.cells import Cell, Clients, Study, World
from gradtx_hf.studies.models import EMBEDDED, PRETRAINED
from gradtx_hf.studies.world import Place, key_of


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
        key = key_of([study.world_of(cell).to_dict(), training])
        steps = f"{training['max_steps']:,}" if key not in trained else "shared with a cell above"
        trained.add(key)
        noise = {"client_noise": cell.client_noise} if cell.client_noise else {}
        rows.append([cell.name, cell.label, _changes({**cell.world, **cell.training, **noise, **cell.clients}), steps])
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
    stores = _different([world for cell in cells for world in (study.control_world_of(cell), study.world_of(cell))])
    rows = []
    for world in stores:
        num_target_runs = world.num_shadow_sets if world.num_target_runs is None else world.num_target_runs
        name = f"{world.pair}, {world.num_rules} rules of {world.runs_per_rule} runs"
        source_steps, target_steps = world.source_recipe["num_steps"], world.target_recipe["num_steps"]
        rows.append([f"source runs of the store {name}", f"{world.num_shadow_sets}", f"{source_steps}"])
        rows.append([f"target runs of the store {name}", f"{num_target_runs}", f"{target_steps}"])
    rows += _client_rows(study, cells)
    models = dict.fromkeys(name for world in stores for name in (world.source, world.target) if name not in EMBEDDED)
    for name in models:
        num_steps = sum(stage.num_steps for stage in PRETRAINED[name].stages)
        rows.append([f"pretraining of {name}, once for all seeds", "1", str(num_steps)])
    return rows


def _client_rows(study: Study, cells: Sequence[Cell]) -> list[list[str]]:
    """Return the runs of clients, and those of ceilings and of the public control, which several cells may share."""
    place = Place(Path(), 0)
    sources = {place.sources(study, cell): cell for cell in cells}
    ceilings = {place.ceilings(study, cell): cell for cell in cells}
    runs: dict[tuple[str, str], int] = {}
    for cell in sources.values():
        clients = study.clients_of(cell)
        recipe = {**study.control_world_of(cell).source_recipe, **clients.source_recipe}
        what = ("private clients" if clients.privacy else "clients", str(recipe["num_steps"]))
        runs[what] = runs.get(what, 0) + _num_clients(clients) * clients.num_parts
    for cell in ceilings.values():
        clients = study.clients_of(cell)
        num_teams = _num_clients(clients) // clients.num_members
        what = ("ceilings", str(clients.num_ceiling_steps))
        runs[what] = runs.get(what, 0) + num_teams
    for cell in {place.public_finetune(study, cell): cell for cell in cells}.values():
        what = ("public fine-tunes", str(study.clients_of(cell).num_public_steps))
        runs[what] = runs.get(what, 0) + 1
    return [[what, str(number), steps] for (what, steps), number in runs.items()]


def _num_clients(clients: Clients) -> int:
    return (clients.num_seen + clients.num_unseen) * (1 if clients.has_own_tasks else clients.num_members)


def _different(worlds: Sequence[World]) -> list[World]:
    return list({key_of(world.to_dict()): world for world in worlds}.values())


def _changes(changes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "nothing"
