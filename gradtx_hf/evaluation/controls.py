"""Target adapters of a translator and of every control that the update store gives, for all clients.

A translator that ignores its input, or one that a constant beats, must look bad beside these (DESIGN: controls).
A control that rests on target runs is left out where the store has too few of them.
Source: ours; nearest shadow and mean shadow as in ``gradtx_hf.baselines``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from gradtx_hf.baselines import NearestShadow, RidgeMap, ShadowMean
from gradtx_hf.lora import Adapter
from gradtx_hf.updates import UpdateVector
from gradtx_hf.updates.store import Side, UpdateStore


State = dict[str, Tensor]


def num_target_runs(store: UpdateStore) -> int:
    """Return how many shadow sets of a store have a target run beside the source run: what the controls rest on."""
    return len({shadow_set for shadow_set, _ in store.pairs})


def target_states(
    inits: Mapping[Side, Adapter],
    store: UpdateStore,
    source_states: Sequence[Mapping[str, Tensor]],
    *,
    translated: Sequence[State],
    shuffled: Sequence[int | None],
) -> list[dict[str, State]]:
    """Return each client's target adapters by method: translated, untouched, and the controls that the store gives.

    Mean shadow and nearest shadow are left out without target runs, ridge with fewer than two.

    Args:
        inits: The translator's initial adapters.
        store: The store that it was trained on.
        source_states: The clients' factors, aligned to the initial source adapter.
        translated: The factors that the translator made of them.
        shuffled: For each client the index of the client whose adapter is its shuffled input; see ``partners``.
    """
    fitted: dict[str, ShadowMean | NearestShadow | RidgeMap] = {}
    if num_target_runs(store) >= 1:
        fitted |= {"shadow_mean": ShadowMean.fit(store), "nearest_shadow": NearestShadow.fit(store)}
    if num_target_runs(store) >= 2:
        fitted["ridge"] = RidgeMap.fit(store)
    source_start, target_start = inits["source"].tensors, inits["target"].tensors
    states = []
    for i, state in enumerate(source_states):
        update = UpdateVector.between(state, source_start, store.source_layout)
        methods: dict[str, State] = {"target_untouched": dict(target_start), "translated": dict(translated[i])}
        for name, control in fitted.items():
            predicted = UpdateVector(control.predict(update.tokens), store.target_layout)
            methods[name] = predicted.added_to(target_start)
        partner = shuffled[i]
        if partner is not None:
            methods["shuffled_input"] = dict(translated[partner])
        states.append(methods)
    return states


def partners(tasks: Sequence[str], seen: Sequence[bool | None]) -> list[int | None]:
    """Return for each client the client whose adapter is its shuffled input, one of another task.

    It is of the same group, seen or unseen, where that has another task: else an unseen client would be shown what a
    seen task's adapter gives, which is another question. The k-th client of a task gets the k-th client of the next
    task, going round, or of those after it where the next has fewer: several seeds of one task get different ones.

    Args:
        tasks: The clients' tasks.
        seen: The clients' groups.

    Returns:
        Indices of clients; None where all clients have one task.
    """
    names = list(dict.fromkeys(tasks))
    found: list[int | None] = []
    for i, task in enumerate(tasks):
        others = [j for j in range(len(tasks)) if tasks[j] != task]
        candidates = [j for j in others if seen[j] is seen[i]] or others
        candidates.sort(key=lambda j: (names.index(tasks[j]) - names.index(task)) % len(names))
        position = sum(tasks[j] == task and seen[j] is seen[i] for j in range(i))
        found.append(candidates[position % len(candidates)] if candidates else None)
    return found
