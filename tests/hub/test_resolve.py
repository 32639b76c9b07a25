"""What a user names becomes a folder, over real HTTP on loopback, or one clear line without a token."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from huggingface_hub import HfApi, constants

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.hub import pin_revision, resolve_folder
from gradtx_hf.playground.hub_server import FaultKind, HubServer
from gradtx_hf.playground.hub_server.repository import Kind
from tests.hubs import ALICE, BOB, add_repository, set_files, set_tag


TOKEN = ALICE
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "README.md": b"# card",
    "source_init/adapter_config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"print()",
}


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    resolved = resolve_folder(tmp_path)

    assert (resolved.path, resolved.name, resolved.commit) == (tmp_path, str(tmp_path), None)


def test_a_subfolder_of_a_local_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "source_init").mkdir()

    assert resolve_folder(tmp_path, subfolder="source_init").path == tmp_path / "source_init"


def test_a_repository_is_fetched_with_its_commit(hub: HubServer, tmp_path: Path) -> None:
    commit = add_repository(hub, "org/plain", FILES)

    resolved = resolve_folder("org/plain", cache_dir=tmp_path)

    assert resolved.name == "org/plain"
    assert resolved.commit == commit
    assert (resolved.path / "model.safetensors").read_bytes() == b"weights"
    assert (resolved.path / "source_init" / "adapter_config.json").is_file()


def test_nothing_that_could_run_code_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/pickled", FILES)

    resolved = resolve_folder("org/pickled", cache_dir=tmp_path)

    assert not (resolved.path / "pytorch_model.bin").exists()
    assert not (resolved.path / "modeling.py").exists()
    assert not any("pytorch_model.bin" in request.path for request in hub.requests)


def test_a_subfolder_of_a_repository_is_found(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/nested", FILES)

    resolved = resolve_folder("org/nested", cache_dir=tmp_path, subfolder="source_init")

    assert (resolved.path / "adapter_config.json").is_file()


@pytest.mark.parametrize("how", ["argument", "suffix", "slash", "sha"])
def test_a_revision_is_fetched(hub: HubServer, tmp_path: Path, how: str) -> None:
    old = add_repository(hub, "org/tagged", {"config.json": b"old"})
    for reference in ("v1", "refs/pr/1"):
        set_tag(hub, "org/tagged", reference, old)
    set_files(hub, "org/tagged", {"config.json": b"new"})

    name = {"suffix": "org/tagged@v1", "slash": "org/tagged@refs/pr/1", "sha": f"org/tagged@{old}"}
    resolved = resolve_folder(
        name.get(how, "org/tagged"), revision="v1" if how == "argument" else None, cache_dir=tmp_path
    )

    assert (resolved.path / "config.json").read_bytes() == b"old"
    assert (resolved.name, resolved.commit) == ("org/tagged", old)


def test_a_private_repository_is_fetched_with_its_token(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/private", FILES, is_private=True)

    resolved = resolve_folder("org/private", token=TOKEN, cache_dir=tmp_path)

    assert (resolved.path / "config.json").is_file()


def test_the_cache_serves_without_the_network(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/cached", FILES)
    first = resolve_folder("org/cached", cache_dir=tmp_path)
    num_requests = len(hub.requests)

    second = resolve_folder("org/cached", cache_dir=tmp_path, local_files_only=True)

    assert second == first
    assert len(hub.requests) == num_requests


def refusal(error: type[Exception], name: str | Path, **options: object) -> str:
    """Return the message of a refusal, which must be one line without the token."""
    with pytest.raises(error) as caught:
        resolve_folder(name, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    return message


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    message = refusal(ConfigurationError, tmp_path, revision="main")

    assert "is a local folder, which has no revision 'main'" in message


def test_two_revisions_are_refused() -> None:
    assert "Give one of them" in refusal(ConfigurationError, "org/plain@v1", revision="v2")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "is not a folder" in refusal(MissingFileError, tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["nowhere", "./org/name", "/not/there", "a/b/c", "a b/c", "https://x/y", "", "org/", "x" * 300]
)
def test_what_is_neither_folder_nor_repository_id_is_refused_without_a_request(hub: HubServer, name: str) -> None:
    num_requests = len(hub.requests)

    message = refusal(MissingFileError, name)

    assert "is no folder on this machine, and no repository id" in message
    assert len(hub.requests) == num_requests


def test_a_token_inside_an_address_is_not_repeated() -> None:
    assert "https://…@huggingface.co" in refusal(MissingFileError, f"https://user:{TOKEN}@huggingface.co/org/name")


def test_an_unknown_repository_is_refused(tmp_path: Path) -> None:
    message = refusal(MissingFileError, "org/unknown", cache_dir=tmp_path)

    assert "no repository 'org/unknown' that you may read" in message
    assert "if it is private, give a token" in message


def test_a_private_repository_is_refused_to_another_token(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/hidden", FILES, is_private=True)

    for token in (BOB, None):
        message = refusal(MissingFileError, "org/hidden", token=token, cache_dir=tmp_path)
        assert "if it is private, give a token" in message


def test_a_gated_repository_is_refused(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/gated", FILES, gated="manual")

    assert "'org/gated' is gated. Ask for access" in refusal(
        MissingFileError, "org/gated", token=BOB, cache_dir=tmp_path
    )


def test_an_unknown_revision_is_refused(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/plain", FILES)

    assert "'org/plain' has no revision 'v9'" in refusal(MissingFileError, "org/plain@v9", cache_dir=tmp_path)


def test_an_unknown_token_is_refused(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/plain", FILES)

    message = refusal(MissingFileError, "org/plain", token="hf_unknown", cache_dir=tmp_path)

    assert "refuses the token" in message
    assert "hf_unknown" not in message


@pytest.mark.parametrize(("kind", "words"), [("403", "refuses the token"), ("500", "500")])
def test_a_refusing_server_is_named(hub: HubServer, tmp_path: Path, kind: FaultKind, words: str) -> None:
    add_repository(hub, "org/failing", FILES)
    hub.faults.add(kind, path="*/org/failing*")

    assert words in refusal(MissingFileError, "org/failing", token=TOKEN, cache_dir=tmp_path)


def test_what_the_cache_lacks_is_refused_offline(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/plain", FILES)

    assert "the network is switched off" in refusal(
        MissingFileError, "org/plain", cache_dir=tmp_path, local_files_only=True
    )


def test_a_dead_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    message = refusal(MissingFileError, "org/plain", token=TOKEN, cache_dir=tmp_path)

    assert "no connection to http://127.0.0.1:9" in message


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}é", ""])
def test_a_malformed_token_is_refused_without_repeating_it(token: str) -> None:
    assert "the token holds spaces" in refusal(ConfigurationError, "org/plain", token=token)


@pytest.mark.parametrize("subfolder", ["../other", "/etc", "a/../../b"])
def test_a_subfolder_that_leads_out_is_refused(tmp_path: Path, subfolder: str) -> None:
    assert "leads out of" in refusal(ConfigurationError, tmp_path, subfolder=subfolder)


def test_a_missing_subfolder_is_refused(tmp_path: Path) -> None:
    assert "has no folder 'target_init'" in refusal(MissingFileError, tmp_path, subfolder="target_init")


def test_a_repository_without_a_usable_file_is_refused(hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, "org/empty", {"pytorch_model.bin": b"pickle"})

    assert "holds no *.json, *.safetensors, *.md file" in refusal(MissingFileError, "org/empty", cache_dir=tmp_path)


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_revision_is_pinned_to_its_commit(hub: HubServer, repo_type: Literal["model", "dataset"]) -> None:
    kind: Kind = "models" if repo_type == "model" else "datasets"
    old = add_repository(hub, "org/moving", {"config.json": b"old"}, kind=kind)
    set_tag(hub, "org/moving", "v1", old, kind=kind)
    new = set_files(hub, "org/moving", {"config.json": b"new"}, kind=kind)

    pinned = [pin_revision("org/moving", revision=r, repo_type=repo_type) for r in (None, "main", "v1", old)]

    assert pinned == [new, new, old, old]
    assert new != old


def test_a_gated_repository_is_pinned_by_all(hub: HubServer) -> None:
    commit = add_repository(hub, "org/gated", FILES, gated="manual")

    assert pin_revision("org/gated", revision=None, repo_type="model", token=BOB) == commit


def test_a_commit_and_a_local_path_are_not_asked_for(hub: HubServer, tmp_path: Path) -> None:
    num_requests = len(hub.requests)

    for name, revision in (("org/nowhere", "a" * 40), (str(tmp_path), None), ("./not/there", "main")):
        assert pin_revision(name, revision=revision, repo_type="model") == revision
    assert len(hub.requests) == num_requests


def test_without_the_network_the_cached_commit_is_taken_or_the_revision_as_given(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = add_repository(hub, "org/fetched", FILES)
    resolve_folder("org/fetched")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    assert pin_revision("org/fetched", revision=None, repo_type="model") == commit
    assert pin_revision("org/never", revision="v1", repo_type="model") == "v1"


def test_switched_off_network_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert pin_revision("org/never", revision=None, repo_type="dataset") is None


def test_what_cannot_be_pinned_is_refused_without_the_token(hub: HubServer) -> None:
    add_repository(hub, "org/locked", FILES, is_private=True)
    add_repository(hub, "org/broken", FILES)
    hub.faults.add("500", path="*/org/broken*")
    for name, revision, words in (
        ("org/unknown", None, "no repository 'org/unknown' that you may read"),
        ("org/locked", None, "no repository 'org/locked' that you may read"),
        ("org/broken", None, "failed with HTTP 500"),
    ):
        with pytest.raises(MissingFileError, match=words) as caught:
            pin_revision(name, revision=revision, repo_type="model", token=BOB)
        assert BOB not in str(caught.value)
    add_repository(hub, "org/known", FILES)
    with pytest.raises(MissingFileError, match="has no revision 'v9'"):
        pin_revision("org/known", revision="v9", repo_type="model")
    with pytest.raises(ConfigurationError, match="the token holds spaces"):
        pin_revision("org/known", revision=None, repo_type="model", token="hf a")


def add_weights(hub: HubServer, repo_id: str) -> None:
    """Make a repository with a large file, whose checksum clients are told."""
    add_repository(hub, repo_id, {"config.json": b"{}"})
    HfApi(token=TOKEN).upload_file(
        path_or_fileobj=f"weights of {repo_id}".encode(), path_in_repo="model.safetensors", repo_id=repo_id
    )


def test_a_large_file_damaged_on_its_way_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    add_weights(hub, "org/damaged")
    hub.faults.add("corrupt_download", method="GET", path="*/model.safetensors", times=1)

    resolved = resolve_folder("org/damaged", token=TOKEN, cache_dir=tmp_path)

    assert not list(hub.faults)  # it did happen
    assert (resolved.path / "model.safetensors").read_bytes() == b"weights of org/damaged"


def test_a_large_file_that_stays_damaged_is_refused_and_not_kept(hub: HubServer, tmp_path: Path) -> None:
    add_weights(hub, "org/always-damaged")
    hub.faults.add("corrupt_download", method="GET", path="*/model.safetensors")

    with pytest.raises(MissingFileError, match=r"do not arrive as .* such as 'model\.safetensors'"):
        resolve_folder("org/always-damaged", token=TOKEN, cache_dir=tmp_path)
    hub.faults.clear()
    resolved = resolve_folder("org/always-damaged", token=TOKEN, cache_dir=tmp_path)
    assert (resolved.path / "model.safetensors").read_bytes() == b"weights of org/always-damaged"
