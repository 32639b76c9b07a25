"""Repositories as wholes, through ``HfApi``: make, find, describe, hide, gate, remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from httpx2 import Response
from huggingface_hub import HfApi, ModelCard, constants, metadata_update
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_session, paginate

from gradtx_hf.playground.hub_server import HubServer
from tests.hubs import ALICE, add_repository


CARD = """---
library_name: peft
pipeline_tag: text-generation
base_model: [org/small, org/large]
base_model_relation: adapter
datasets: org/lines
license: apache-2.0
tags: [gradtx_hf, lora]
model-index:
- name: measured
  results:
  - task: {type: text-generation}
    dataset: {name: edit rules, type: rules}
    metrics: [{type: exact_match, value: 0.9}]
---
# A card
"""


def card(**metadata: object) -> bytes:
    lines = "".join(f"{key}: {value}\n" for key, value in metadata.items())
    return f"---\n{lines}---\n# A card\n".encode()


def test_a_token_tells_who_asks(alice: HfApi, nobody: HfApi) -> None:
    user = alice.whoami()

    assert (user["name"], [org["name"] for org in user["orgs"]]) == ("alice", ["org"])
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        HfApi(endpoint=nobody.endpoint, token="hf_unknown").whoami()


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_a_repository_is_made_once_and_removed_once(alice: HfApi, repo_id: str, repo_type: str) -> None:
    sdk = "gradio" if repo_type == "space" else None

    url = alice.create_repo(repo_id.partition("/")[2], repo_type=repo_type, space_sdk=sdk)

    assert (url.repo_id, url.repo_type) == (repo_id, repo_type)
    assert alice.repo_info(repo_id, repo_type=repo_type).id == repo_id
    with pytest.raises(HfHubHTTPError) as caught:
        alice.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk)
    assert caught.value.response.status_code == 409
    assert alice.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, exist_ok=True) == url

    alice.delete_repo(repo_id, repo_type=repo_type)

    assert not alice.repo_exists(repo_id, repo_type=repo_type)
    with pytest.raises(RepositoryNotFoundError):
        alice.delete_repo(repo_id, repo_type=repo_type)


@pytest.mark.parametrize("name", ["bob/taken", "alice/a--b", "alice/x.git"])
def test_a_name_that_cannot_be_is_refused(alice: HfApi, name: str) -> None:
    with pytest.raises((HfHubHTTPError, ValueError)):
        alice.create_repo(name)

    assert not any(model.id == name for model in alice.list_models())


def test_a_card_becomes_metadata_and_tags(alice: HfApi, repo: str) -> None:
    ModelCard(CARD).push_to_hub(repo, token=ALICE)

    info = alice.model_info(repo)

    assert (info.library_name, info.pipeline_tag) == ("peft", "text-generation")
    assert info.card_data is not None
    assert info.card_data.base_model == ["org/small", "org/large"]
    expected = {"peft", "gradtx_hf", "lora", "license:apache-2.0", "dataset:org/lines", "base_model:org/small"}
    assert expected | {"base_model:adapter:org/small", "base_model:adapter:org/large"} <= set(info.tags or ())
    assert info.card_data.eval_results is not None
    assert info.card_data.eval_results[0].metric_value == 0.9
    assert info.model_index is not None
    assert [file.rfilename for file in info.siblings or ()] == [".gitattributes", "README.md"]
    assert info.sha == alice.list_repo_refs(repo).branches[0].target_commit
    assert info.last_modified is not None
    assert info.created_at is not None
    assert info.last_modified > info.created_at

    metadata_update(repo, {"license": "mit"}, overwrite=True, token=ALICE)

    assert "license:mit" in (alice.model_info(repo).tags or ())


@pytest.mark.parametrize(
    ("files", "tag"),
    [
        ({"README.md": card(base_model="org/a"), "adapter_config.json": b"{}"}, "base_model:adapter:org/a"),
        ({"README.md": card(base_model="[org/a, org/b]")}, "base_model:merge:org/b"),
        ({"README.md": card(base_model="org/a")}, "base_model:finetune:org/a"),
    ],
)
def test_the_relation_to_the_base_model_is_inferred(
    hub: HubServer, alice: HfApi, files: dict[str, bytes], tag: str
) -> None:
    add_repository(hub, "org/related", files)

    assert tag in (alice.model_info("org/related").tags or ())


@pytest.mark.parametrize("metadata", ["base_model: /tmp/model", "base_model: [a: b", "- a list"])
def test_a_card_that_the_hub_would_refuse_is_refused(hub: HubServer, alice: HfApi, repo: str, metadata: str) -> None:
    text = f"---\n{metadata}\n---\nhello"
    before = alice.model_info(repo).sha

    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        alice.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo)
    answer = post_commit(hub, repo, "file", path="README.md", content=text)

    assert (answer.status_code, answer.headers["X-Error-Message"][:27]) == (400, "Invalid metadata in README.")
    assert alice.model_info(repo).sha == before


def test_models_are_found_by_all_that_is_asked_for(hub: HubServer, alice: HfApi, bob: HfApi) -> None:
    for name, base in (("org/find-one", "org/base"), ("org/find-two", "org/base"), ("org/find-other", "org/b")):
        add_repository(hub, name, {"README.md": card(base_model=base, base_model_relation="adapter", tags="[found]")})
    add_repository(hub, "org/find-secret", {"README.md": card(tags="[found]")}, is_private=True)

    def found(api: HfApi, **options: object) -> list[str]:
        return [model.id for model in api.list_models(**options)]  # type: ignore[arg-type]

    adapters = "base_model:adapter:org/base"
    assert found(bob, filter=adapters, sort="last_modified") == ["org/find-two", "org/find-one"]
    assert found(bob, filter=[adapters, "found"], search="ONE") == ["org/find-one"]
    assert found(bob, filter="found", author="org", limit=2) == ["org/find-other", "org/find-two"]
    assert found(bob, filter="found", author="alice") == []
    assert set(found(alice, filter="found")) - set(found(bob, filter="found")) == {"org/find-secret"}


def test_lists_hold_what_the_hub_gives_and_more_if_asked(hub: HubServer, bob: HfApi) -> None:
    add_repository(hub, "org/listed", {"README.md": card(license="mit")})

    (short,) = bob.list_models(search="org/listed")
    (full,) = bob.list_models(search="org/listed", full=True, cardData=True)
    (named,) = bob.list_models(search="org/listed", expand=["lastModified", "cardData"])

    assert (short.sha, short.siblings, short.card_data, short.last_modified) == (None, None, None, None)
    assert full.sha is not None
    assert full.card_data is not None
    assert named.card_data is not None
    assert named.card_data.license == "mit"
    assert (named.last_modified, named.tags) == (full.last_modified, None)


def test_long_lists_come_in_pages(hub: HubServer) -> None:
    for number in range(5):
        add_repository(hub, f"org/page-{number}", {})

    params = {"search": "org/page", "limit": 2, "sort": "lastModified"}
    pages = list(paginate(f"{constants.ENDPOINT}/api/models", params=params, headers={}))

    assert [item["id"] for item in pages] == [f"org/page-{number}" for number in (4, 3, 2, 1, 0)]
    assert sum("org/page" in request.path for request in hub.requests[-3:]) == 3


def test_datasets_and_spaces_are_found_too(hub: HubServer, bob: HfApi) -> None:
    add_repository(hub, "org/lines", {"README.md": card(license="mit", language="en")}, kind="datasets")
    add_repository(hub, "org/space", {"README.md": card(sdk="gradio")}, kind="spaces")

    assert [data.id for data in bob.list_datasets(filter="license:mit", search="lines")] == ["org/lines"]
    assert [space.id for space in bob.list_spaces(author="org", search="space")] == ["org/space"]
    assert bob.space_info("org/space").sdk == "gradio"


def test_a_private_repository_is_there_for_its_members_alone(
    tmp_path: Path, alice: HfApi, bob: HfApi, nobody: HfApi
) -> None:
    alice.create_repo("org/secret", private=True, exist_ok=True)
    alice.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="org/secret")

    assert alice.model_info("org/secret").private
    for other in (bob, nobody):
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("org/secret")
        with pytest.raises(RepositoryNotFoundError):
            other.hf_hub_download("org/secret", "config.json", cache_dir=tmp_path)

    alice.update_repo_settings("org/secret", private=False)

    assert not bob.model_info("org/secret").private


def test_a_gated_repository_shows_itself_but_not_its_files(
    tmp_path: Path, alice: HfApi, bob: HfApi, nobody: HfApi, repo: str
) -> None:
    alice.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo)
    alice.update_repo_settings(repo, gated="manual")

    assert bob.model_info(repo).gated == "manual"
    assert alice.hf_hub_download(repo, "config.json")
    for other in (bob, nobody):
        with pytest.raises(GatedRepoError):
            other.hf_hub_download(repo, "config.json", cache_dir=tmp_path)
        with pytest.raises(GatedRepoError):
            other.auth_check(repo)

    alice.grant_access(repo, "bob")

    bob.auth_check(repo)
    assert bob.hf_hub_download(repo, "config.json", cache_dir=tmp_path)


def test_only_members_write(bob: HfApi, nobody: HfApi, repo: str) -> None:
    before = bob.model_info(repo).sha

    for other in (bob, nobody):
        with pytest.raises(HfHubHTTPError) as caught:
            other.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=repo)
        assert caught.value.response.status_code in (401, 403)
        with pytest.raises(HfHubHTTPError):
            other.delete_repo(repo)

    assert bob.model_info(repo).sha == before


@pytest.mark.parametrize("name", ["gpt2", "alice/nothing"])
def test_what_is_not_there_is_not_found(bob: HfApi, nobody: HfApi, name: str) -> None:
    kinds: tuple[Literal["model", "dataset"], ...] = ("model", "dataset")

    for api in (bob, nobody):
        assert not any(api.repo_exists(name, repo_type=kind) for kind in kinds)
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download(name, "config.json")


def test_deleting_what_is_not_there_is_refused(alice: HfApi, repo: str) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        alice.delete_file("nothing.json", repo)


@pytest.mark.parametrize("path", ["a/../../b", "/etc/x", "", ".git/config", "a//b"])
def test_paths_that_lead_out_are_refused(hub: HubServer, repo: str, path: str) -> None:
    answer = post_commit(hub, repo, "file", path=path, content="x")

    assert answer.status_code == 400
    assert "is no path inside a repository" in answer.json()["error"]


def test_a_file_that_is_also_a_folder_is_refused(hub: HubServer, alice: HfApi, repo: str) -> None:
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a/b", repo_id=repo)

    answer = post_commit(hub, repo, "file", path="a", content="x")

    assert "both a file and a folder" in answer.json()["error"]


def post_commit(hub: HubServer, repo: str, operation: str, **fields: str) -> Response:
    """Commit past the checks of the client."""
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": operation, "value": fields}]
    return get_session().post(
        f"{hub.url}/api/models/{repo}/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"authorization": f"Bearer {ALICE}"},
    )
