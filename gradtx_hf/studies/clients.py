"""A study's clients: their adapters and ceilings, made once for all cells of a pair, and the scores of the controls.

Scores of a cell stand beside those of the controls, so that a cell costs its translator and its own scoring alone.
Axes: N_S blocks, D_S size of the largest block. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradtx_hf.evaluation import ClientScores
from gradtx_hf.evaluation.arguments import ClientData
from gradtx_hf.evaluation.controls import State, num_target_runs, partners, target_states
from gradtx_hf.evaluation.fine_tuning import FineTuningJob, fine_tuning_jobs
from gradtx_hf.evaluation.methods import SOURCE_CLIENT, TRANSLATED
from gradtx_hf.evaluation.reuse import PUBLIC_ADAPTER
from gradtx_hf.evaluation.run import ScoringJob, client_folder_name, perform_scoring
from gradtx_hf.evaluation.scoring import ScoringSettings
from gradtx_hf.finetuning import FineTuningRecipe
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.model import TokenStatistics
from gradtx_hf.output import write_json
from gradtx_hf.studies.cells import Clients, World
from gradtx_hf.training.augmentation import add_input_noise
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import UpdateVector, align_adapter
from gradtx_hf.updates.store import SIDES, Side, UpdateStore


CONTROLS_FILE = "controls.json"
SHUFFLED_INPUT = "shuffled_input"
SCORING = ScoringSettings("exact_match", max_new_tokens=8, max_length=64, batch_size=128)
"""A completion has six letters and the end."""


@dataclass(frozen=True)
class ClientSet:
    """The clients of one seed and one pair of models.

    Attributes:
        folder: Where their adapters and the controls' scores are.
        store: Folder of the store whose initial adapters they start from, and whose updates the controls use.
        values: The clients, as values of ``ClientData.from_dict``.
    """

    folder: Path
    store: Path
    values: tuple[Mapping[str, Any], ...]

    @property
    def data(self) -> list[ClientData]:
        """The clients."""
        return [ClientData.from_dict(values) for values in self.values]

    @property
    def homes(self) -> list[Path]:
        """Each client's folder."""
        return [self.folder / client_folder_name(i, client) for i, client in enumerate(self.data)]

    def init(self, side: Side) -> Path:
        """Return the folder of the initial adapter of a side."""
        return self.store / f"{side}_init"


def missing_fine_tuning(clients: ClientSet, world: World, settings: Clients) -> list[FineTuningJob]:
    """Return the adapters that are still to be fine-tuned: each client's, its ceiling, and the public fine-tune."""
    chosen = {
        "source": {**world.source_recipe, "num_parts": settings.num_parts},
        "target": {**world.target_recipe, "num_steps": settings.num_ceiling_steps},
        "public": {**world.target_recipe, "num_steps": settings.num_public_steps},
    }
    jobs = fine_tuning_jobs(
        clients.data,
        {name: FineTuningRecipe.from_dict(values) for name, values in chosen.items()},
        store=str(clients.store),
        inits={side: str(clients.init(side)) for side in SIDES},
        folder=clients.folder,
        homes=clients.homes,
    )
    return [job for job in jobs if not Path(job.output_dir).is_dir()]


def score_controls(clients: ClientSet) -> None:
    """Score everything but a translator on every client, and write it to ``controls.json``."""
    store = UpdateStore.open(clients.store)
    inits: dict[Side, Adapter] = {"source": load_adapter(clients.init("source"))}
    inits["target"] = load_adapter(clients.init("target"))
    aligned = aligned_states(clients)
    made = target_states(inits, store, aligned, translated=[{} for _ in aligned], shuffled=[None for _ in aligned])
    public = load_adapter(clients.folder / PUBLIC_ADAPTER).tensors
    scored = []
    for client, home, source, methods in zip(clients.data, clients.homes, aligned, made, strict=True):
        del methods[TRANSLATED]
        methods |= {"public_finetune": public, "ceiling": load_adapter(home / "ceiling").tensors}
        scores = _score(clients, client, {SOURCE_CLIENT: source}, side="source")
        scored.append(merged(scores, _score(clients, client, methods, side="target")))
    write_json(
        clients.folder / CONTROLS_FILE,
        {"num_target_runs": num_target_runs(store), "clients": [asdict(scores) for scores in scored]},
    )


def score_translator(clients: ClientSet, translator: PeftTranslator, *, noise: float, seed: int) -> list[ClientScores]:
    """Score a translator on every client: its own adapter translated, and another client's.

    Args:
        clients: The clients.
        translator: The translator.
        noise: Standard deviation of the noise on the clients' updates, in units of the shadow sets'.
        seed: Seed of the noise.
    """
    aligned = aligned_states(clients)
    if noise:
        aligned = noisy_states(aligned, UpdateStore.open(clients.store), translator.source_init, noise=noise, seed=seed)
    translated = [translator.translate_states([state]) for state in aligned]
    data = clients.data
    shuffled = partners([client.task for client in data], [client.seen for client in data])
    scored = []
    for client, own, partner in zip(data, translated, shuffled, strict=True):
        methods = {TRANSLATED: own} | ({} if partner is None else {SHUFFLED_INPUT: translated[partner]})
        scored.append(_score(clients, client, methods, side="target"))
    return scored


def aligned_states(clients: ClientSet) -> list[State]:
    """Return the clients' source factors, aligned to the initial adapter."""
    start = load_adapter(clients.init("source"))
    states = []
    for home in clients.homes:
        adapter = load_adapter(home / "source")
        alignment = align_adapter(adapter.tensors, start.tensors, scales=adapter.scales, start_scales=start.scales)
        states.append(dict(alignment.state))
    return states


def noisy_states(
    states: Sequence[State], store: UpdateStore, start: Adapter, *, noise: float, seed: int
) -> list[State]:
    """Add Gaussian noise to source updates, as a differentially private fine-tuning would.

    Args:
        states: Source factors by name.
        store: The store whose source updates give the unit of the noise.
        start: The initial source adapter.
        noise: Standard deviation, in units of the shadow sets' per tensor and block.
        seed: Seed of the noise.
    """
    layout = store.source_layout
    statistics = TokenStatistics(layout)
    for shadow_set in store.shadow_sets("source"):
        statistics.update(store.read("source", shadow_set))
    _, std = statistics.result()  # [N_S, D_S]
    mask = layout.mask()
    generator = torch.Generator().manual_seed(seed)
    noisy = []
    for state in states:
        tokens: Tensor = UpdateVector.between(state, start.tensors, layout).tokens
        drawn = add_input_noise(tokens[None], std=std * mask, noise=noise, generator=generator)[0]  # [N_S, D_S]
        noisy.append(UpdateVector(drawn, layout).added_to(start.tensors))
    return noisy


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


def read_controls(folder: Path) -> tuple[list[ClientScores], int] | None:
    """Return the controls' scores and the target runs that they rest on; None if they were not scored yet."""
    path = folder / CONTROLS_FILE
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return read_scores(values["clients"]), int(values["num_target_runs"])


def _score(clients: ClientSet, client: ClientData, states: Mapping[str, State], *, side: Side) -> ClientScores:
    scored = perform_scoring(ScoringJob(str(clients.init(side)), dict(states), client.test, SCORING))
    return ClientScores(
        client.task,
        client.seen,
        {name: method.score for name, method in scored.items()},
        seed=client.seed,
        nats_per_token={name: method.nats_per_token for name, method in scored.items()},
    )
