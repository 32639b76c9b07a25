"""The fine-tuning that a study's clients need: their adapters, private or not, their ceilings, the public control.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradtx_hf.client import fine_tune_client
from gradtx_hf.evaluation.fine_tuning import FineTuningJob, perform_fine_tuning
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings, load_samples
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.studies.cells import Clients, World
from gradtx_hf.studies.client_sets import ClientSet


LEDGERS = "ledgers"


@dataclass(frozen=True)
class ClientRun:
    """One adapter to fine-tune.

    Attributes:
        job: Where it starts, on what, how, and where it goes.
        privacy: ``PrivacySettings`` of the run; empty: not private.
    """

    job: FineTuningJob
    privacy: Mapping[str, Any] = field(default_factory=dict)


def missing_client_runs(clients: ClientSet, world: World, settings: Clients) -> list[ClientRun]:
    """Return the adapters that are still to be fine-tuned: each client's, each ceiling, and the public fine-tune."""
    source, target, public = (
        FineTuningRecipe.from_dict(values)
        for values in (
            {**world.source_recipe, **settings.source_recipe, "num_parts": settings.num_parts},
            {**world.target_recipe, "num_steps": settings.num_ceiling_steps},
            {**world.target_recipe, "num_steps": settings.num_public_steps},
        )
    )
    store, data = str(clients.store), clients.data
    inits = {"source": str(clients.init("source")), "target": str(clients.init("target"))}
    runs = [ClientRun(FineTuningJob(inits["target"], None, store, public, 0, str(clients.public_finetune)))]
    for team in clients.teams:
        pooled = tuple(sample for i in team.members for sample in data[i].train)
        seed, to = data[team.members[0]].seed, str(clients.ceiling(team))
        runs.append(ClientRun(FineTuningJob(inits["target"], pooled, store, target, seed, to)))
    for client, home in zip(data, clients.homes, strict=True):
        job = FineTuningJob(inits["source"], client.train, store, source, client.seed, str(home))
        runs.append(ClientRun(job, settings.privacy))
    return [run for run in runs if not Path(run.job.output_dir).is_dir()]


def perform_client_run(run: ClientRun) -> None:
    """Fine-tune one adapter; a private run has a ledger of its own, as every budget is a client of its own."""
    if not run.privacy:
        perform_fine_tuning(run.job)
        return
    job, folder = run.job, Path(run.job.output_dir)
    assert job.samples is not None, "only clients are private"
    with one_thread():
        fine_tune_client(
            job.init,
            load_samples(job.samples, seed=job.seed),
            recipe=job.recipe,
            output_dir=folder,
            seed=job.seed,
            privacy=PrivacySettings.from_dict(run.privacy),
            work_dir=folder.parent / LEDGERS / folder.name,
        )
