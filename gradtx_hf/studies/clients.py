"""The scores of a study's clients: by the controls, once for all cells of a pair, and by a cell's translator.

Scores of a cell stand beside those of the controls, so that a cell costs its translator and its own scoring alone.
What no client's adapter changes (the untouched target, the ceilings) is scored once for all ways of training them.
Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from gradtx_hf.evaluation import ClientScores
from gradtx_hf.evaluation.controls import State, num_target_runs, partners, target_states
from gradtx_hf.evaluation.inputs import TEST_SEED
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.evaluation.scoring import Scorer, ScoringSettings
from gradtx_hf.finetuning import load_samples
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.output import write_json
from gradtx_hf.studies.client_sets import ClientSet, aligned_states, noisy_states, team_states
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import UpdateVector
from gradtx_hf.updates.store import Side, UpdateStore


CONTROLS_FILE = "controls.json"
SHUFFLED_INPUT = "shuffled_input"
SOURCE_AGGREGATE = "source_aggregate"
PUBLIC_FINETUNE = "public_finetune"
SHADOW_MEAN = "shadow_mean"
NOT_READING = (TRANSLATED, TARGET_UNTOUCHED, SHADOW_MEAN)
"""What is no control that reads a client's adapter."""
SCORING = ScoringSettings("exact_match", max_new_tokens=8, max_length=64, batch_size=128)
"""A completion has six letters and the end."""


def score_constants(clients: ClientSet) -> None:
    """Score what no client's adapter changes on every task, and write it beside the ceilings."""
    store = UpdateStore.open(clients.store)
    inits = _inits(clients)
    start: list[State] = [dict(inits["source"].tensors)]
    made = target_states(inits, store, start, translated=[{}], shuffled=[None])[0]
    constant = {name: made[name] for name in (TARGET_UNTOUCHED, SHADOW_MEAN) if name in made}
    constant[PUBLIC_FINETUNE] = dict(load_adapter(clients.public_finetune).tensors)
    target = _scorer(clients, "target")
    scored = []
    for team in clients.teams:
        methods = {**constant, CEILING: dict(load_adapter(clients.ceiling(team)).tensors)}
        scored += [_score(clients, target, row, methods) for row in team.rows]
    _write_scores(clients.ceilings, scored, num_target_runs(store))


def score_controls(clients: ClientSet) -> None:
    """Score the controls that read the clients' adapters, and write them to ``controls.json``."""
    store = UpdateStore.open(clients.store)
    aligned = aligned_states(clients)
    merged_states = team_states(clients, aligned)
    made = target_states(
        _inits(clients),
        store,
        merged_states,
        translated=[{} for _ in merged_states],
        shuffled=[None for _ in merged_states],
    )
    source, target = _scorer(clients, "source"), _scorer(clients, "target")
    scored = []
    for team, methods, merged_source in zip(clients.teams, made, merged_states, strict=True):
        reading = {name: state for name, state in methods.items() if name not in NOT_READING}
        for row in team.rows:
            scores = _mean([_score(clients, source, (i,), {SOURCE_CLIENT: aligned[i]}) for i in row])
            if clients.num_members > 1:
                scores = merged(scores, _score(clients, source, row, {SOURCE_AGGREGATE: merged_source}))
            scored.append(merged(scores, _score(clients, target, row, reading)))
    _write_scores(clients.folder, scored, num_target_runs(store))


def score_translator(clients: ClientSet, translator: PeftTranslator, *, noise: float, seed: int) -> list[ClientScores]:
    """Score a translator on every client: its own adapter translated, and another client's.

    Args:
        clients: The clients.
        translator: The translator.
        noise: Standard deviation of the noise on the clients' updates, in units of the shadow sets'.
        seed: Seed of the noise.
    """
    aligned = noisy_states(clients, aligned_states(clients), noise=noise, seed=seed)
    teams, data = clients.teams, clients.data
    translated = [
        translator.translate_states([aligned[i] for i in team.members], aggregation=clients.aggregation)
        for team in teams
    ]
    shuffled = partners(
        [" ".join(data[i].task for i in team.members) for team in teams],
        [data[team.members[0]].seen for team in teams],
    )
    target = _scorer(clients, "target")
    scored = []
    for team, own, partner in zip(teams, translated, shuffled, strict=True):
        methods = {TRANSLATED: own} | ({} if partner is None else {SHUFFLED_INPUT: translated[partner]})
        scored += [_score(clients, target, row, methods) for row in team.rows]
    return scored


def count_off_the_map(clients: ClientSet, translator: PeftTranslator, *, noise: float, seed: int) -> int | None:
    """Return how many of the updates that a translator reads lie beyond its distance limit; None without a limit.

    The arguments are those of ``score_translator``.
    """
    distance = translator.input_distance
    if distance is None:
        return None
    aligned = noisy_states(clients, aligned_states(clients), noise=noise, seed=seed)
    start = translator.source_init.tensors
    updates = [UpdateVector.between(state, start, distance.layout) for state in team_states(clients, aligned)]
    return sum(distance.measure(update.tokens) > distance.limit for update in updates)


def merged(first: ClientScores, second: ClientScores) -> ClientScores:
    """Return one client's scores with those of further methods."""
    return replace(
        first,
        scores={**first.scores, **second.scores},
        nats_per_token={**first.nats_per_token, **second.nats_per_token},
    )


def read_scores(values: Sequence[Mapping[str, Any]]) -> list[ClientScores]:
    """Return what ``asdict`` made of clients' scores."""
    return [ClientScores(**client) for client in values]


def read_controls(clients: Path, ceilings: Path) -> tuple[list[ClientScores], int] | None:
    """Return the controls' scores and the target runs that they rest on; None if they were not scored yet.

    Args:
        clients: Folder of the scores of the controls that read the clients' adapters.
        ceilings: Folder of the scores that no client's adapter changes.
    """
    if not (clients / CONTROLS_FILE).is_file() or not (ceilings / CONTROLS_FILE).is_file():
        return None
    reading, constant = (
        json.loads((folder / CONTROLS_FILE).read_text(encoding="utf-8")) for folder in (clients, ceilings)
    )
    both = zip(read_scores(reading["clients"]), read_scores(constant["clients"]), strict=True)
    return [merged(first, second) for first, second in both], int(reading["num_target_runs"])


def _write_scores(folder: Path, scored: Sequence[ClientScores], target_runs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / CONTROLS_FILE,
        {"num_target_runs": target_runs, "clients": [asdict(scores) for scores in scored]},
    )


def _inits(clients: ClientSet) -> dict[Side, Adapter]:
    return {"source": load_adapter(clients.init("source")), "target": load_adapter(clients.init("target"))}


def _mean(clients: Sequence[ClientScores]) -> ClientScores:
    """Return the mean scores of clients of one task, under the first one's name."""
    first = clients[0]
    return replace(
        first,
        scores={name: _mean_of(client.scores[name] for client in clients) for name in first.scores},
        nats_per_token={
            name: _mean_of(client.nats_per_token[name] for client in clients) for name in first.nats_per_token
        },
    )


def _mean_of(scores: Iterable[float | None]) -> float | None:
    found = [score for score in scores if score is not None]
    return fmean(found) if found else None


def _scorer(clients: ClientSet, side: Side) -> Scorer:
    return Scorer(str(clients.init(side)))


def _score(clients: ClientSet, scorer: Scorer, row: Sequence[int], states: Mapping[str, State]) -> ClientScores:
    """Score adapters on the test lines of clients with one task."""
    data = clients.data
    first = data[row[0]]
    tests = load_samples([sample for i in row for sample in data[i].test], seed=TEST_SEED)
    with one_thread():
        scored = scorer.score(states, tests, settings=SCORING)
    return ClientScores(
        first.task,
        first.seen,
        {name: method.score for name, method in scored.items()},
        seed=first.seed,
        nats_per_token={name: method.nats_per_token for name, method in scored.items()},
    )
