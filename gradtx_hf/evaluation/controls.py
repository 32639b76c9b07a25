"""Target adapters of a translator and of every control that the update store gives, for all clients.

A translator that ignores its input, or one that a constant beats, must look bad beside these (DESIGN: controls).
Source: ours; nearest shadow and mean shadow as in ``gradtx_hf.baselines``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from gradtx_hf.baselines import NearestShadow, RidgeMap, ShadowMean
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import UpdateVector
from gradtx_hf.updates.store import UpdateStore


State = dict[str, Tensor]


def target_states(
    translator: PeftTranslator,
    store: UpdateStore,
    source_states: Sequence[Mapping[str, Tensor]],
    *,
    tasks: Sequence[str],
) -> list[dict[str, State]]:
    """Return each client's target adapters by method: translated, untouched, and the controls without training.

    Args:
        translator: The translator.
        store: The store that it was trained on.
        source_states: The clients' factors, aligned to the translator's ``source_init``.
        tasks: The clients' tasks; the shuffled input of a client is the adapter of another task's client.
    """
    translated = [translator.translate_states([state]) for state in source_states]
    shuffled = partners(tasks)
    fitted: dict[str, ShadowMean | NearestShadow | RidgeMap] = {
        "shadow_mean": ShadowMean.fit(store),
        "nearest_shadow": NearestShadow.fit(store),
        **({"ridge": RidgeMap.fit(store)} if store.num_shadow_sets > 1 else {}),
    }
    source_start, target_start = translator.source_init.tensors, translator.target_init.tensors
    states = []
    for i, state in enumerate(source_states):
        update = UpdateVector.between(state, source_start, store.source_layout)
        methods: dict[str, State] = {"target_untouched": dict(target_start), "translated": translated[i]}
        for name, control in fitted.items():
            predicted = UpdateVector(control.predict(update.tokens), store.target_layout)
            methods[name] = predicted.added_to(target_start)
        partner = shuffled[i]
        if partner is not None:
            methods["shuffled_input"] = translated[partner]
        states.append(methods)
    return states


def partners(tasks: Sequence[str]) -> list[int | None]:
    """Return for each client the index of the next client with another task, going round; None if there is none."""
    found: list[int | None] = []
    for i, task in enumerate(tasks):
        order = [*range(i + 1, len(tasks)), *range(i)]
        found.append(next((j for j in order if tasks[j] != task), None))
    return found
