"""Score all methods of all clients, a job for each model. Source: ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.client_scores import ClientScores
from gradtx_hf.evaluation.controls import State
from gradtx_hf.evaluation.inputs import TEST_SEED
from gradtx_hf.evaluation.method_adapters import proxy_tuned
from gradtx_hf.evaluation.methods import TRANSLATED
from gradtx_hf.evaluation.scoring import Scored, Scorer, ScoringSettings, score
from gradtx_hf.finetuning import Sample, load_samples
from gradtx_hf.finetuning.pool import one_thread, run_jobs
from gradtx_hf.updates.store import Side


@dataclass(frozen=True)
class ScoringJob:
    """One model by its initial adapter, its adapters by method, and the data to score them on.

    Attributes:
        init: Folder of the initial adapter.
        states: Method to factors.
        samples: The held-out data.
        settings: What is measured.
        proxies: Method that decodes with three models to the folder of the source adapter that it does so with.
    """

    init: str
    states: Mapping[str, State]
    samples: tuple[Sample, ...]
    settings: ScoringSettings
    proxies: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=2)
def _scorer(init: str) -> Scorer:
    """Load a side's model once for all jobs of this process."""
    return Scorer(init)


def perform_scoring(job: ScoringJob) -> dict[str, Scored]:
    """Score every method of one job."""
    with one_thread():
        examples = load_samples(job.samples, seed=TEST_SEED)
        scored = _scorer(job.init).score(job.states, examples, settings=job.settings)
        for name, adapter in job.proxies.items():
            model, tokenizer = proxy_tuned(adapter, job.init)
            scored[name] = score(model, tokenizer, examples, settings=job.settings)
        return scored


def score_clients(
    arguments: EvaluationArguments,
    inits: Mapping[Side, str],
    *,
    clients: Sequence[ClientData],
    states: Sequence[Mapping[str, State]],
    source_states: Sequence[Sequence[Mapping[str, State]]],
    proxies: Sequence[Mapping[str, str]],
) -> list[ClientScores]:
    """Score every method on the held-out data of every client and every member, each beside its own small model.

    Args:
        arguments: What is measured.
        inits: Folders of the initial adapters.
        clients: The clients.
        states: Each client's target adapters by method.
        source_states: The source adapters by method of each client's members.
        proxies: Each client's methods that decode with three models; see ``ScoringJob``.
    """
    settings = ScoringSettings(
        metric=arguments.metric,
        max_new_tokens=arguments.max_new_tokens,
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )
    members, jobs = [], []
    for client, methods, own, decoding in zip(clients, states, source_states, proxies, strict=True):
        for member, source_state in zip(client.each, own, strict=True):
            members.append(member)
            jobs.append(ScoringJob(inits["target"], methods, member.test, settings, decoding))
            jobs.append(ScoringJob(inits["source"], source_state, member.test, settings))
    scored: list[dict[str, Scored]] = [{} for _ in members]
    try:
        for index, found in run_jobs(perform_scoring, jobs, num_workers=arguments.num_workers, description="scoring"):
            scored[index // 2] |= found
    finally:
        _scorer.cache_clear()
    return [
        ClientScores(
            member.task,
            member.seen,
            {name: method.score for name, method in methods.items()},
            seed=member.seed,
            nats_per_token={n: m.nats_per_token for n, m in methods.items() if m.nats_per_token is not None},
            example_scores={n: m.example_scores for n, m in methods.items() if m.example_scores},
            test_set=methods[TRANSLATED].test_set,
        )
        for member, methods in zip(members, scored, strict=True)
    ]
