"""The fine-tuning that a study's clients need: their adapters, private or not, their ceilings, the public control.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradtx_hf.client import fine_tune_client
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


LEDGERS = "ledgers"
MOST_AT_ONCE = 6
"""Runs that are fine-tuned at once on one model."""


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


@dataclass(frozen=True)
class ClientPack:
    """Runs that are fine-tuned at once, from one initial adapter by one recipe; or one run alone."""

    runs: tuple[ClientRun, ...]

    @property
    def key(self) -> str:
        """What tells it from others."""
        return self.runs[0].job.output_dir


def pack_client_runs(runs: Sequence[ClientRun]) -> list[ClientPack]:
    """Group runs that can be fine-tuned at once, which changes no more than the last bits of their numbers.

    A private run, one in parts, and the public control, which reads the store, go alone.
    """
    groups: dict[object, list[ClientRun]] = {}
    for run in runs:
        job = run.job
        goes_alone = bool(run.privacy) or job.recipe.num_parts > 1 or job.samples is None
        groups.setdefault(job.output_dir if goes_alone else (job.init, job.recipe), []).append(run)
    return [
        ClientPack(tuple(group[first : first + MOST_AT_ONCE]))
        for group in groups.values()
        for first in range(0, len(group), MOST_AT_ONCE)
    ]


def perform_client_pack(pack: ClientPack) -> None:
    """Fine-tune the adapters of a pack."""
    if len(pack.runs) == 1:
        perform_client_run(pack.runs[0])
        return
    jobs = [run.job for run in pack.runs]
    recipe, adapter = jobs[0].recipe, load_adapter(jobs[0].init)
    with one_thread():
        model, tokenizer = load_language_model(
            adapter.base_model, revision=adapter.config.revision, max_length=recipe.max_length
        )
        examples = [load_samples(job.samples or (), seed=job.seed) for job in jobs]
        runs = [
            PackedRun(
                job.output_dir,
                adapter.tensors,
                tokenize_examples(rows, tokenizer, max_length=recipe.max_length),
                job.seed,
            )
            for job, rows in zip(jobs, examples, strict=True)
        ]
        dropout = float(adapter.config.lora_dropout)
        results = fine_tune_pack(
            model, runs, tokenizer=tokenizer, recipe=recipe, scales=adapter.scales, dropout=dropout
        )
    for job, result in zip(jobs, results, strict=True):
        with new_folder(job.output_dir) as folder:
            save_adapter(folder, config=adapter.config, tensors=result.tensors)


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
