"""The fine-tuning that a study's clients need: their adapters, private or not, their ceilings, the public control.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradtx_hf.evaluation.fine_tuning import FineTuningJob, perform_fine_tuning
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    PrivacySettings,
    fine_tune_pack,
    load_language_model,
    load_samples,
    tokenize_examples,
)
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.output import new_folder
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


@dataclass(frozen=True)
class ClientPack:
    """Jobs that are done at once, from one initial adapter by one recipe; or one job alone."""

    jobs: tuple[FineTuningJob, ...]

    @property
    def key(self) -> str:
        """What tells it from others."""
        return self.jobs[0].output_dir


def pack_client_runs(jobs: Sequence[FineTuningJob]) -> list[ClientPack]:
    """Group jobs that can be done at once, which changes no more than the last bits of their numbers.

    A private run, one in parts, and the public control, which reads the store, go alone.
    """
    groups: dict[object, list[FineTuningJob]] = {}
    for job in jobs:
        goes_alone = job.privacy is not None or job.recipe.num_parts > 1 or job.samples is None
        groups.setdefault(job.output_dir if goes_alone else (job.init, job.recipe), []).append(job)
    return [
        ClientPack(tuple(group[first : first + MOST_AT_ONCE]))
        for group in groups.values()
        for first in range(0, len(group), MOST_AT_ONCE)
    ]


def perform_client_pack(pack: ClientPack) -> None:
    """Fine-tune the adapters of a pack."""
    if len(pack.jobs) == 1:
        perform_fine_tuning(pack.jobs[0])
        return
    recipe, adapter = pack.jobs[0].recipe, load_adapter(pack.jobs[0].init)
    with one_thread():
        model, tokenizer = load_language_model(
            adapter.base_model, revision=adapter.config.revision, max_length=recipe.max_length
        )
        examples = [load_samples(job.samples or (), seed=job.seed, half=job.half) for job in pack.jobs]
        runs = [
            PackedRun(
                job.output_dir,
                adapter.tensors,
                tokenize_examples(rows, tokenizer, max_length=recipe.max_length),
                job.seed,
            )
            for job, rows in zip(pack.jobs, examples, strict=True)
        ]
        dropout = float(adapter.config.lora_dropout)
        results = fine_tune_pack(
            model, runs, tokenizer=tokenizer, recipe=recipe, scales=adapter.scales, dropout=dropout
        )
    for job, result in zip(pack.jobs, results, strict=True):
        with new_folder(job.output_dir) as folder:
            save_adapter(folder, config=adapter.config, tensors=result.tensors)
