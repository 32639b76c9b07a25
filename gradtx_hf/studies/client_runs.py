"""The fine-tuning that a study's clients need: their adapters, private or not, their ceilings, the public control.

Source: ours.
"""

from __future__ import annotations

from pathlib import Path

from gradtx_hf.evaluation.fine_tuning import FineTuningJob
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings
from gradtx_hf.studies.cells import Clients, World
from gradtx_hf.studies.client_sets import ClientSet


MOST_AT_ONCE = 6
"""Runs that are fine-tuned at once on one model."""


def missing_client_runs(clients: ClientSet, world: World, settings: Clients) -> list[FineTuningJob]:
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
    privacy = PrivacySettings.from_dict(settings.privacy) if settings.privacy else None
    jobs = [FineTuningJob(inits["target"], None, store, public, 0, str(clients.public_finetune))]
    for team in clients.teams:
        pooled = tuple(sample for i in team.members for sample in data[i].train)
        seed, to = data[team.members[0]].seed, str(clients.ceiling(team))
        jobs.append(FineTuningJob(inits["target"], pooled, store, target, seed, to))
    for client, home in zip(data, clients.homes, strict=True):
        jobs.append(FineTuningJob(inits["source"], client.train, store, source, client.seed, str(home), privacy))
    return [job for job in jobs if not Path(job.output_dir).is_dir()]
