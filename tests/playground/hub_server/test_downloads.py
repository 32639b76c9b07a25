"""Files to the client: trees, contents, ranges, tags of contents, caches."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import get_session

from gradtx_hf.playground.hub_server import HubServer
from tests.hubs import ALICE, add_repository, set_files


WEIGHTS = bytes(range(256)) * 400
FILES = {"config.json": b"{}", "sub/deep/a.json": b"1", "sub/b.json": b"22", "c d+é.txt": b"odd name"}


@pytest.fixture
def filled(alice: HfApi, repo: str, hub: HubServer) -> str:
    """Return the id of a repository with small files and a large one."""
    set_files(hub, repo, FILES)
    alice.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors", repo_id=repo)
    return repo


def test_a_snapshot_holds_every_file(filled: str, tmp_path: Path) -> None:
    folder = Path(snapshot_download(filled, cache_dir=tmp_path))

    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {**FILES, "model.safetensors": WEIGHTS}


def test_a_cached_file_is_not_sent_again(hub: HubServer, filled: str, tmp_path: Path) -> None:
    first = hf_hub_download(filled, "model.safetensors", cache_dir=tmp_path)
    sent = len(hub.requests)

    second = hf_hub_download(filled, "model.safetensors", cache_dir=tmp_path)

    assert first == second
    assert [request.method for request in hub.requests[sent:]] == ["HEAD"]


def test_a_file_of_a_subfolder_at_a_revision_is_found(hub: HubServer, filled: str, tmp_path: Path) -> None:
    repository = hub.store.find("models", filled)
    assert repository is not None
    old = repository.branches["main"]
    set_files(hub, filled, {"sub/b.json": b"new"})

    path = hf_hub_download(filled, "b.json", subfolder="sub", revision=old, cache_dir=tmp_path)

    assert Path(path).read_bytes() == b"22"


def test_ranges_are_served(hub: HubServer, filled: str) -> None:
    url = f"{hub.url}/{filled}/resolve/main/model.safetensors"

    def ask(**headers: str) -> tuple[int, bytes]:
        answer = get_session().get(url, headers=headers)
        return answer.status_code, answer.content

    assert ask(range="bytes=5-9") == (206, WEIGHTS[5:10])
    assert ask(range="bytes=102390-") == (206, WEIGHTS[102390:])
    assert ask(range="bytes=-3") == (206, WEIGHTS[-3:])
    assert ask(range="bytes=999999-")[0] == 416


def test_a_known_tag_of_the_content_is_enough(hub: HubServer, filled: str) -> None:
    url = f"{hub.url}/{filled}/resolve/main/model.safetensors"
    etag = get_session().head(url).headers["etag"]

    answer = get_session().get(url, headers={"If-None-Match": etag})

    assert (answer.status_code, answer.content) == (304, b"")


def test_a_head_names_commit_size_and_checksum(hub: HubServer, filled: str, alice: HfApi) -> None:
    metadata = alice.get_hf_file_metadata(url=f"{hub.url}/{filled}/resolve/main/model.safetensors")
    (entry,) = alice.get_paths_info(filled, "model.safetensors")

    assert isinstance(entry, RepoFile)
    assert entry.lfs is not None
    assert metadata.commit_hash == alice.model_info(filled).sha
    assert (metadata.size, metadata.etag) == (len(WEIGHTS), entry.lfs.sha256)


def test_trees_are_listed(filled: str, alice: HfApi) -> None:
    def paths(**options: object) -> list[str]:
        return [entry.path for entry in alice.list_repo_tree(filled, **options)]  # type: ignore[arg-type]

    assert paths() == ["sub", "c d+é.txt", "config.json", "model.safetensors"]
    assert paths(path_in_repo="sub") == ["sub/deep", "sub/b.json"]
    assert paths(path_in_repo="sub", recursive=True) == ["sub/deep", "sub/b.json", "sub/deep/a.json"]
    with pytest.raises(RemoteEntryNotFoundError):
        paths(path_in_repo="nowhere")


def test_entries_name_their_last_commit(filled: str, alice: HfApi) -> None:
    alice.upload_file(path_or_fileobj=b"3", path_in_repo="sub/b.json", repo_id=filled, commit_message="third")

    entries = {entry.path: entry for entry in alice.list_repo_tree(filled, recursive=True, expand=True)}

    titles = {path: entry.last_commit.title for path, entry in entries.items() if entry.last_commit is not None}
    assert titles["sub"] == titles["sub/b.json"] == "third"
    assert titles["sub/deep"] == titles["config.json"] == "set files"


def test_paths_are_described_if_they_are_there(filled: str, alice: HfApi) -> None:
    entries = alice.get_paths_info(filled, ["sub", "config.json", "nothing", "c d+é.txt"])

    assert [(type(entry), entry.path) for entry in entries] == [
        (RepoFolder, "sub"),
        (RepoFile, "config.json"),
        (RepoFile, "c d+é.txt"),
    ]
    assert alice.file_exists(filled, "sub/b.json")
    assert not alice.file_exists(filled, "sub/c.json")


def test_info_with_blobs_names_sizes_and_checksums(filled: str, alice: HfApi) -> None:
    siblings = {file.rfilename: file for file in alice.model_info(filled, files_metadata=True).siblings or ()}

    assert siblings["model.safetensors"].size == len(WEIGHTS)
    assert siblings["model.safetensors"].lfs is not None
    assert (siblings["config.json"].size, siblings["config.json"].lfs) == (2, None)


def test_checksums_of_a_snapshot_are_verified(filled: str, alice: HfApi, tmp_path: Path) -> None:
    folder = alice.snapshot_download(filled, local_dir=tmp_path)

    assert not alice.verify_repo_checksums(filled, local_dir=folder).mismatches
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    assert alice.verify_repo_checksums(filled, local_dir=folder).mismatches


def test_a_file_system_reads_and_writes(filled: str, hub: HubServer) -> None:
    files = HfFileSystem(endpoint=hub.url, token=ALICE, skip_instance_cache=True)

    assert sorted(files.glob(f"{filled}/**/*.json")) == [
        f"{filled}/config.json", f"{filled}/sub/b.json", f"{filled}/sub/deep/a.json",
    ]  # fmt: skip
    with files.open(f"{filled}/model.safetensors", "rb") as stream:
        stream.seek(300)
        assert stream.read(4) == WEIGHTS[300:304]
    files.write_text(f"{filled}/written.txt", "hello")
    files.rm(f"{filled}/config.json")
    assert files.read_text(f"{filled}/written.txt") == "hello"
    assert not files.exists(f"{filled}/config.json", refresh=True)


def test_what_is_missing_is_missing_at_its_commit(filled: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(filled, "nothing.json", cache_dir=tmp_path)
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(filled, "model.safetensors", cache_dir=tmp_path, local_files_only=True)


def test_data_sets_and_spaces_have_files_too(hub: HubServer, tmp_path: Path) -> None:
    for repo_type, kind in (("dataset", "datasets"), ("space", "spaces")):
        add_repository(hub, "org/same", {"name.txt": kind.encode()}, kind=kind)  # type: ignore[arg-type]

        path = hf_hub_download("org/same", "name.txt", repo_type=repo_type, cache_dir=tmp_path)

        assert Path(path).read_bytes() == kind.encode()
