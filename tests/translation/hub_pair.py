"""The tiny pair as others would have it: both models on the Hub, and a translator that names them by commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gradtx_hf.hub.cards import with_base_model
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator
from tests.hubs import add_repository, folder_files
from tests.translation.pair import Pair


SMALL, LARGE = "org/small", "org/large"


@dataclass(frozen=True)
class HubPair:
    """The pair on the Hub.

    Attributes:
        translator: The translator; it names ``SMALL`` and ``LARGE`` at their commits.
        commits: Commit by model.
    """

    translator: PeftTranslator
    commits: dict[str, str]

    def client(self, folder: Path) -> Adapter:
        """Return a client's adapter as it is when the client loaded its model from the Hub."""
        return with_base_model(load_adapter(folder), f"{SMALL}@{self.commits[SMALL]}")


def put_pair_on_hub(hub: HubServer, pair: Pair) -> HubPair:
    """Put both models on the Hub and return the translator that names them."""
    models = {SMALL: pair.source, LARGE: pair.target}
    commits = {name: add_repository(hub, name, folder_files(folder)) for name, folder in models.items()}
    local = PeftTranslator.from_pretrained(pair.translator)
    inits = {
        "source_init": with_base_model(local.source_init, f"{SMALL}@{commits[SMALL]}"),
        "target_init": with_base_model(local.target_init, f"{LARGE}@{commits[LARGE]}"),
    }
    return HubPair(replace(local, **inits), commits)


def put_client_on_hub(hub: HubServer, hub_pair: HubPair, client: Path, folder: Path, **files: bytes) -> str:
    """Put a client's adapter on the Hub as PEFT would, and return its commit."""
    adapter = hub_pair.client(client)
    save_adapter(folder, config=adapter.config, tensors=adapter.tensors)
    return add_repository(hub, "org/client", folder_files(folder) | files, is_private=True)
