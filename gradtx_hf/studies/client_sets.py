"""The clients of one seed and one pair of models: their folders, their teams, and the updates that are translated.

Axes: N_S blocks, D_S size of the largest block. Source: ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradtx_hf.evaluation.arguments import ClientData
from gradtx_hf.evaluation.controls import State
from gradtx_hf.evaluation.run import client_folder_name
from gradtx_hf.lora import load_adapter
from gradtx_hf.model import TokenStatistics
from gradtx_hf.training.augmentation import add_input_noise
from gradtx_hf.translation.aggregation import Aggregation, aggregate_updates
from gradtx_hf.updates import UpdateVector, align_adapter
from gradtx_hf.updates.store import Side, UpdateStore


@dataclass(frozen=True)
class Team:
    """The clients of one translation: one, or several whose updates become one.

    Attributes:
        members: Numbers of the clients.
        rows: The same numbers by task: of clients with one task one score is reported, on the test lines of all.
    """

    members: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ClientSet:
    """The clients of one seed and one pair of models.

    Attributes:
        folder: Where the scores of the controls that read their adapters are.
        sources: Where their adapters are.
        ceilings: Where their ceilings are, and the scores that no client's adapter changes.
        public_finetune: The folder of the public fine-tune's adapter.
        store: Folder of the store whose initial adapters they start from, and whose updates the controls use.
        values: The clients, as values of ``ClientData.from_dict``; those of one translation follow each other.
        num_members: Clients of one translation.
        aggregation: How their updates become one.
    """

    folder: Path
    sources: Path
    ceilings: Path
    public_finetune: Path
    store: Path
    values: tuple[Mapping[str, Any], ...]
    num_members: int = 1
    aggregation: Aggregation = "mean"

    @property
    def data(self) -> list[ClientData]:
        """The clients."""
        return [ClientData.from_dict(values) for values in self.values]

    @property
    def homes(self) -> list[Path]:
        """The folder of each client's adapter."""
        return [self.sources / client_folder_name(i, client) for i, client in enumerate(self.data)]

    @property
    def teams(self) -> list[Team]:
        """The clients of each translation."""
        data, found = self.data, []
        for first in range(0, len(data), self.num_members):
            members = range(first, first + self.num_members)
            rows = [tuple(row) for _, row in itertools.groupby(members, key=lambda i: data[i].task)]
            found.append(Team(tuple(members), tuple(rows)))
        return found

    def ceiling(self, team: Team) -> Path:
        """Return the folder of the ceiling of a team: one target adapter, of the lines of all its clients."""
        first = team.members[0]
        return self.ceilings / client_folder_name(first, self.data[first])

    def init(self, side: Side) -> Path:
        """Return the folder of the initial adapter of a side."""
        return self.store / f"{side}_init"


def team_states(clients: ClientSet, aligned: Sequence[State]) -> list[State]:
    """Return the source factors that each translation reads: a client's own, or the aggregate of several.

    Args:
        clients: The clients.
        aligned: Every client's factors, aligned to the initial adapter.
    """
    if clients.num_members == 1:
        return list(aligned)
    start = load_adapter(clients.init("source"))
    states = []
    for team in clients.teams:
        updates = [UpdateVector.between(aligned[i], start.tensors, start.layout).tokens for i in team.members]
        together = aggregate_updates(torch.stack(updates), aggregation=clients.aggregation)
        states.append(UpdateVector(together, start.layout).added_to(start.tensors))
    return states


def aligned_states(clients: ClientSet) -> list[State]:
    """Return the clients' source factors, aligned to the initial adapter."""
    start = load_adapter(clients.init("source"))
    states = []
    for home in clients.homes:
        adapter = load_adapter(home)
        alignment = align_adapter(adapter.tensors, start.tensors, scales=adapter.scales, start_scales=start.scales)
        states.append(dict(alignment.state))
    return states


def noisy_states(clients: ClientSet, states: Sequence[State], *, noise: float, seed: int) -> list[State]:
    """Add Gaussian noise to source updates, as a differentially private fine-tuning would.

    Args:
        clients: The clients; the source updates of their store give the unit of the noise.
        states: Source factors by name.
        noise: Standard deviation, in units of the shadow sets' per tensor and block; 0 leaves the states as they are.
        seed: Seed of the noise.
    """
    if not noise:
        return list(states)
    store, start = UpdateStore.open(clients.store), load_adapter(clients.init("source"))
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
