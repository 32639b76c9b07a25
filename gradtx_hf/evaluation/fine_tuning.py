"""The adapters that an evaluation fine-tunes: every client's, its ceiling, and the public control."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from gradtx_hf.client import fine_tune_client
from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.methods import CEILING
from gradtx_hf.evaluation.reuse import PUBLIC_ADAPTER, source_names
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    PrivacySettings,
    Sample,
    fine_tune_parts,
    load_language_model,
    load_samples,
    tokenize_examples,
)
from gradtx_hf.finetuning.pool import one_thread, run_jobs
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.finetuning.samples import Half
from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.output import new_folder
from gradtx_hf.updates.store import Side, UpdateStore


LEDGERS = "ledgers"
"""Folder beside adapters, with a ledger for each of them that is private."""


@dataclass(frozen=True)
class FineTuningJob:
    """One adapter to fine-tune: where it starts, on what (perhaps a half), how, where it goes, and how private."""

    init: str
    samples: tuple[Sample, ...] | None
    store: str
    recipe: FineTuningRecipe
    seed: int
    output_dir: str
    privacy: PrivacySettings | None = None
    half: Half | None = None


@dataclass(frozen=True)
class FineTuningPack:
    """Jobs that are done at once, from one initial adapter by one recipe; or one job alone."""

    jobs: tuple[FineTuningJob, ...]

    @property
    def key(self) -> str:
        """What tells it from others."""
        return self.jobs[0].output_dir


def recipes_of(arguments: EvaluationArguments, store: UpdateStore) -> dict[str, FineTuningRecipe]:
    """Return how adapters are fine-tuned: ``source`` (clients), ``target`` (ceilings) and ``public``."""
    chosen = {
        "source": arguments.source_recipe or store.plan["source"]["recipe"],
        "target": arguments.target_recipe or store.plan["target"]["recipe"],
        "public": arguments.public_recipe or store.plan["target"]["recipe"],
    }
    return {name: FineTuningRecipe.from_dict(values) for name, values in chosen.items()}


def fine_tuning_jobs(
    clients: Sequence[ClientData],
    recipes: Mapping[str, FineTuningRecipe],
    *,
    store: str,
    inits: Mapping[Side, str],
    folder: Path,
    homes: Sequence[Path],
    privacy: PrivacySettings | None = None,
) -> list[FineTuningJob]:
    """Return a job per adapter of an evaluation, also for those that are there already.

    Args:
        clients: The clients.
        recipes: Those of ``source``, ``target`` (the ceilings) and ``public``; see ``recipes_of``.
        store: Folder of the store, whose public data the public control is trained on.
        inits: Folders of the initial adapters of ``source`` and ``target``.
        folder: The evaluation's folder.
        homes: Each client's folder.
        privacy: How private the clients' own runs are.
    """

    def job(side: Side, samples: tuple[Sample, ...] | None, recipe: str, seed: int, to: Path) -> FineTuningJob:
        return FineTuningJob(
            inits[side], samples, store, recipes[recipe], seed, str(to), privacy if side == "source" else None
        )

    jobs = [job("target", None, "public", 0, folder / PUBLIC_ADAPTER)]
    for client, home in zip(clients, homes, strict=True):
        jobs.append(job("target", client.train, "target", client.seed, home / CEILING))
        for member, name in zip(client.each, source_names(len(client.each)), strict=True):
            jobs.append(job("source", member.train, "source", member.seed, home / name))
    return jobs


def perform_fine_tuning(job: FineTuningJob) -> None:
    """Fine-tune one adapter; a client's, a ceiling, or, without samples, the public control on the pooled data."""
    with one_thread():
        examples = (
            _public_examples(job) if job.samples is None else load_samples(job.samples, seed=job.seed, half=job.half)
        )
        folder = Path(job.output_dir)
        fine_tune_client(
            job.init,
            examples,
            recipe=job.recipe,
            output_dir=folder,
            seed=job.seed,
            privacy=job.privacy,
            work_dir=folder.parent / LEDGERS / folder.name,  # every run of an evaluation is a client of its own
        )


def _public_examples(job: FineTuningJob) -> Dataset:
    """Return the pooled public data, or as many of their rows, drawn at random, as the run can read."""
    examples = pooled_public_examples(UpdateStore.open(job.store))
    most = job.recipe.num_steps * job.recipe.gradient_accumulation_steps * job.recipe.batch_size
    if len(examples) <= most:
        return examples
    return examples.select(sorted(random.Random(job.seed).sample(range(len(examples)), most)))


def pack_jobs(jobs: Sequence[FineTuningJob], *, most_at_once: int) -> list[FineTuningPack]:
    """Group jobs that can be done at once, which changes the last bits of their numbers, and the masks of dropout.

    A private run, and the public control, which reads the store, go alone. Packs of one kind are of about one size, so
    that several processes end together.

    Args:
        jobs: The jobs.
        most_at_once: Most runs in a pack; of a job in parts, each part is one.
    """
    groups: dict[object, list[FineTuningJob]] = {}
    for job in jobs:
        goes_alone = job.privacy is not None or job.samples is None
        groups.setdefault(job.output_dir if goes_alone else (job.init, job.recipe), []).append(job)
    packs = []
    for group in groups.values():
        num_packs = math.ceil(len(group) / max(1, most_at_once // group[0].recipe.num_parts))
        size = math.ceil(len(group) / num_packs)
        packs += [FineTuningPack(tuple(group[first : first + size])) for first in range(0, len(group), size)]
    return packs


def perform_missing(jobs: Sequence[FineTuningJob], *, most_at_once: int, num_workers: int) -> None:
    """Do the jobs whose adapters are not there, in one-thread processes side by side, with a bar on stderr."""
    packs = pack_jobs([job for job in jobs if not Path(job.output_dir).is_dir()], most_at_once=most_at_once)
    for _ in run_jobs(perform_pack, packs, num_workers=num_workers, description="fine-tuning"):
        pass


def perform_pack(pack: FineTuningPack) -> None:
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
        results = fine_tune_parts(
            model, runs, tokenizer=tokenizer, recipe=recipe, scales=adapter.scales, dropout=dropout
        )
    for job, result in zip(pack.jobs, results, strict=True):
        with new_folder(job.output_dir) as folder:
            save_adapter(folder, config=adapter.config, tensors=result.tensors)
