"""What a published adapter says that it was made from, and what follows from the privacy that its sources state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gradtx_hf.errors import LayoutError
from gradtx_hf.hub import Destination
from gradtx_hf.lora import save_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import ReadingOptions, aggregate_adapters, publish_adapter_folder
from tests.translation.hub_files import card_of, repo_files
from tests.translation.hub_pair import SMALL, HubPair, put_client_on_hub


REPO = "org/made"


@pytest.fixture(autouse=True)
def _no_repositories(hub: HubServer) -> None:
    for name in (REPO, "org/client", "org/aggregated"):
        if (repository := hub.store.find("models", name)) is not None:
            hub.store.delete(repository)


def test_an_adapter_of_the_hub_that_was_left_out_is_named_by_its_commit(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    commit = put_client_on_hub(
        hub, hub_pair, clients[0], tmp_path / "bad", **{"adapter_model.safetensors": b"cut short"}
    )
    adapters = [hub_pair.client(clients[1]), "org/client@main"]

    hub_pair.translator.translate(adapters, skip_invalid=True).push_to_hub(REPO)

    (skipped,) = json.loads(repo_files(REPO)["translation.json"])["skipped"]
    assert (skipped["name"], skipped["commit"]) == ("org/client", commit)
    assert f"Left out, as it was refused: `org/client` at commit `{commit}`" in card_of(REPO)[1]


def stated(epsilon: float | None) -> Mapping[str, object] | None:
    return None if epsilon is None else {"epsilon": epsilon, "delta": 1e-5, "accountant": "prv"}


@pytest.mark.parametrize(
    ("epsilons", "saying", "not_saying"),
    [
        ([2.5], "Nothing else of its data was read: the same holds here.", "add up"),
        ([1.0, 2.5], "they add up: all 2 together to ε = 3.5 at δ = 2e-05", "the same holds here"),
        ([1.0, 2.5], "holds here for rows that its adapter alone was trained on", "Nothing is stated"),
        ([1.0, None], "Nothing is stated for the rows of the other adapters", "the same holds here"),
        ([None, None], "No differential privacy is stated", "add up"),
    ],
)
def test_what_several_statements_say_together_is_no_more_than_they_do(
    epsilons: list[float | None], saying: str, not_saying: str, hub_pair: HubPair, clients: list[Path]
) -> None:
    sources = [
        replace(hub_pair.translator.read(hub_pair.client(client)), privacy=stated(epsilon))
        for client, epsilon in zip(clients, epsilons, strict=False)
    ]

    hub_pair.translator.translate(sources).push_to_hub(REPO)

    body = card_of(REPO)[1]
    assert saying in body
    assert not_saying not in body


def test_an_aggregated_folder_says_what_it_was_made_of(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    statement = json.dumps({"epsilon": 2.5, "delta": 1e-5, "accountant": "prv"}).encode()
    commit = put_client_on_hub(hub, hub_pair, clients[0], tmp_path / "first", **{"privacy.json": statement})
    start = replace(hub_pair.translator.start, init=replace(hub_pair.translator.source_init, name=str(tmp_path)))
    aggregated = aggregate_adapters(
        ["org/client", clients[1]], start, aggregation="median", options=ReadingOptions(allow_other_base=True)
    )
    aggregated.save_pretrained(tmp_path / "aggregated")

    publish_adapter_folder(tmp_path / "aggregated", Destination("org/aggregated"))

    metadata, body = card_of("org/aggregated")
    files = repo_files("org/aggregated")
    made_from = json.loads(files["aggregation.json"])
    assert [source["name"] for source in made_from["adapters"]] == ["org/client", "local adapter 2"]
    assert metadata["base_model"] == SMALL
    assert metadata["gradtx_hf"]["source_adapters"] == [f"org/client@{commit}", "local adapter 2"]
    assert metadata["gradtx_hf"]["aggregation"] == "median"
    assert f"Source adapter: `org/client` at commit `{commit}`" in body
    assert "aggregated from 2 adapters" in body
    assert "Aggregated by `median`\n" in body
    assert "ε = 2.5 at δ = 1e-05" in body
    assert "init" not in made_from
    for name, content in files.items():
        assert str(tmp_path).encode() not in content, name
        assert str(clients[1].parent).encode() not in content, name
    again = publish_adapter_folder(tmp_path / "aggregated", Destination("org/aggregated"))
    assert not again.is_changed


def test_a_damaged_record_of_an_aggregation_is_refused(hub_pair: HubPair, clients: list[Path], tmp_path: Path) -> None:
    adapter = hub_pair.client(clients[0])
    save_adapter(tmp_path, config=adapter.config, tensors=adapter.tensors)
    (tmp_path / "aggregation.json").write_text('{"adapters": [3]}')

    with pytest.raises(LayoutError, match=r"aggregation\.json of '.*' is not what gradtx aggregate writes"):
        publish_adapter_folder(tmp_path, Destination("org/client"))
