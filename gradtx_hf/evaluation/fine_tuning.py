"""The adapters that an evaluation fine-tunes: every client's, its ceiling, and the public control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradtx_hf.client import fine_tune_client
from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.methods import CEILING
from gradtx_hf.evaluation.reuse import PUBLIC_ADAPTER, source_names
from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings, Sample, load_samples
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.finetuning.samples import Half
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
            pooled_public_examples(UpdateStore.open(job.store))
            if job.samples is None
            else load_samples(job.samples, seed=job.seed, half=job.half)
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
