"""Adapters as users name them: repositories at a revision, private ones, folders, subfolders, several at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from gradtx_hf.errors import AdapterError, LayoutError, MissingFileError
from gradtx_hf.hub import find
from gradtx_hf.hub.cards import with_base_model
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator, SourceUpdate
from tests.hubs import ALICE, BOB, add_repository, folder_files, set_files, set_tag
from tests.tiny import save_tiny_adapter, tiny_llama
from tests.translation.hub_files import card_of
from tests.translation.hub_pair import SMALL, HubPair
from tests.translation.pair import Pair


OTHER = "org/other-small"


@pytest.fixture(autouse=True)
def _no_repositories(hub: HubServer) -> None:
    for repository in hub.store.repositories("models"):
        if repository.owner in ("org", "clients"):
            hub.store.delete(repository)


def files_of(hub_pair: HubPair, client: Path, folder: Path, *, subfolder: str = "") -> dict[str, bytes]:
    """Return a client's adapter as files of a repository."""
    adapter = hub_pair.client(client)
    save_adapter(folder, config=adapter.config, tensors=adapter.tensors)
    return {f"{subfolder}{name}": content for name, content in folder_files(folder).items()}


def put_other_translators(hub_pair: HubPair, number: int) -> list[str]:
    """Publish translators for another base model and return their names, the newest first."""
    other = replace(hub_pair.translator, source_init=with_base_model(hub_pair.translator.source_init, OTHER))
    names = [f"org/other-{i}" for i in range(number)]
    for name in names:
        other.push_to_hub(name)
    return names[::-1]


def other_adapter(hub_pair: HubPair, client: Path, folder: Path) -> Path:
    """Write an adapter of another base model."""
    adapter = with_base_model(hub_pair.client(client), OTHER)
    save_adapter(folder, config=adapter.config, tensors=adapter.tensors)
    return folder


def refusal(
    translator: PeftTranslator,
    adapter: Path | Adapter | SourceUpdate,
    *,
    token: str | None = None,
    local_files_only: bool = False,
) -> str:
    """Return the one line that an adapter is refused with."""
    with pytest.raises((AdapterError, LayoutError)) as caught:
        translator.translate(adapter, token=token, local_files_only=local_files_only)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_repositories_folders_and_subfolders_are_translated_together_and_pinned(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, inner, _ = (
        files_of(hub_pair, client, tmp_path / str(i), subfolder="runs/last/" if i == 2 else "")
        for i, client in enumerate(clients[:4])
    )
    tagged = add_repository(hub, "clients/tagged", old, is_private=True)
    set_tag(hub, "clients/tagged", "v1", tagged)
    latest = set_files(hub, "clients/tagged", new)
    in_subfolder = add_repository(hub, "clients/inner", inner, is_private=True)
    monkeypatch.delenv("HF_TOKEN")
    translator = hub_pair.translator
    for token in (None, BOB):
        with pytest.raises(MissingFileError, match="that you may read"):
            translator.translate(["clients/tagged", tmp_path / "3"], token=token)

    translated = translator.translate(
        [
            "clients/tagged@v1",
            "clients/tagged",
            translator.read("clients/inner", subfolder="runs/last", token=ALICE),
            tmp_path / "3",
        ],
        token=ALICE,
        weights=[1, 2, 3, 4],
    )

    adapters = translated.report["adapters"]
    assert [(adapter["name"], adapter["commit"]) for adapter in adapters] == [
        ("clients/tagged", tagged),
        ("clients/tagged", latest),
        ("clients/inner", in_subfolder),
        (str(tmp_path / "3"), None),
    ]
    expected = translator.translate([hub_pair.client(client) for client in clients[:4]], weights=[1, 2, 3, 4])
    assert all(torch.equal(translated.tensors[name], tensor) for name, tensor in expected.tensors.items())
    monkeypatch.setenv("HF_TOKEN", ALICE)
    translated.push_to_hub("clients/translated")
    assert card_of("clients/translated")[0]["gradtx_hf"]["source_adapters"] == [
        f"clients/tagged@{tagged}",
        f"clients/tagged@{latest}",
        f"clients/inner@{in_subfolder}",
        "local adapter 4",
    ]


def test_a_revision_may_be_a_commit_a_branch_or_a_pull_request(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    first = add_repository(hub, "clients/adapter", files_of(hub_pair, clients[0], tmp_path / "0"))
    second = set_files(hub, "clients/adapter", files_of(hub_pair, clients[1], tmp_path / "1"))
    set_tag(hub, "clients/adapter", "refs/pr/1", first)

    def commit_of(adapter: str, *, revision: str | None = None) -> object:
        return hub_pair.translator.translate(adapter, revision=revision).report["adapters"][0]["commit"]

    assert commit_of(f"clients/adapter@{first}") == first
    assert commit_of("clients/adapter@refs/pr/1") == first
    assert commit_of("clients/adapter", revision="main") == second


def test_what_was_read_is_checked_again_by_the_translator_that_translates_it(
    hub_pair: HubPair, translator: PeftTranslator, clients: list[Path]
) -> None:
    update = translator.read(clients[0])

    assert f"is for '{SMALL}'" in refusal(hub_pair.translator, update)


def test_from_the_cache_alone_nothing_is_asked_for(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    commit = add_repository(hub, "clients/adapter", files_of(hub_pair, clients[0], tmp_path / "0"))
    hub_pair.translator.translate("clients/adapter")
    hub.faults.add("500")

    translated = hub_pair.translator.translate("clients/adapter", local_files_only=True)

    assert translated.report["adapters"][0]["commit"] == commit
    with pytest.raises(MissingFileError, match="not, or not wholly, in the cache"):
        hub_pair.translator.translate("clients/another", local_files_only=True)


def test_a_refusal_lists_three_translators_that_fit(hub_pair: HubPair, clients: list[Path], tmp_path: Path) -> None:
    names = put_other_translators(hub_pair, 4)
    adapter = other_adapter(hub_pair, clients[0], tmp_path / "other")

    message = refusal(hub_pair.translator, adapter)

    listed = ", ".join(f"'{name}'" for name in names[:3])
    assert message.endswith(f"(allow_other_base=True). On the Hub are translators for '{OTHER}': {listed}.")


def test_an_adapter_that_cannot_be_matched_is_refused_with_the_list_too(
    hub: HubServer, hub_pair: HubPair, tmp_path: Path
) -> None:
    (name,) = put_other_translators(hub_pair, 1)
    tiny_llama(num_layers=3).save_pretrained(tmp_path / "base")
    save_tiny_adapter(tmp_path / "wide", base=tmp_path / "base")
    adapter = with_base_model(load_adapter(tmp_path / "wide"), OTHER)
    save_adapter(tmp_path / "other", config=adapter.config, tensors=adapter.tensors)

    message = refusal(hub_pair.translator, tmp_path / "other")

    assert "does not fit translator" in message
    assert message.endswith(f"On the Hub are translators for '{OTHER}': '{name}'.")


def test_only_translators_that_the_token_may_read_are_listed(
    hub_pair: HubPair, clients: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_other_translators(hub_pair, 1)
    adapter = other_adapter(hub_pair, clients[0], tmp_path / "other")
    monkeypatch.delenv("HF_TOKEN")

    assert "On the Hub" not in refusal(hub_pair.translator, adapter)
    assert "On the Hub" not in refusal(hub_pair.translator, adapter, token=BOB)
    assert "On the Hub" in refusal(hub_pair.translator, adapter, token=ALICE)


def test_another_start_is_refused_without_a_list(hub_pair: HubPair, pair: Pair, tmp_path: Path) -> None:
    save_tiny_adapter(tmp_path / "start", base=pair.source, seed=77)
    adapter = with_base_model(load_adapter(tmp_path / "start"), SMALL)

    assert "On the Hub" not in refusal(hub_pair.translator, adapter)


def test_without_an_answer_the_refusal_stands_alone(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_other_translators(hub_pair, 1)
    adapter = other_adapter(hub_pair, clients[0], tmp_path / "other")
    hub.faults.add("500", times=1)
    assert "On the Hub" not in refusal(hub_pair.translator, adapter)
    assert "On the Hub" in refusal(hub_pair.translator, adapter)

    monkeypatch.setattr(find, "get_session", lambda: pytest.fail("a request was made"))
    assert "On the Hub" not in refusal(hub_pair.translator, adapter, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "On the Hub" not in refusal(hub_pair.translator, adapter)
