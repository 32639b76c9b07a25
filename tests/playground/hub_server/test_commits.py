"""Commits and what names them, through ``HfApi``: uploads, deletions, copies, branches, tags, pull requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RevisionNotFoundError

from gradtx_hf.playground.hub_server import HubServer


def files(api: HfApi, repo: str, revision: str | None = None) -> list[str]:
    """Return a repository's files but the one that all have."""
    return sorted(set(api.list_repo_files(repo, revision=revision)) - {".gitattributes"})


def content(api: HfApi, repo: str, path: str, folder: Path, revision: str | None = None) -> bytes:
    return Path(api.hf_hub_download(repo, path, revision=revision, cache_dir=folder)).read_bytes()


def add(path: str, data: bytes = b"x") -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def test_one_commit_adds_deletes_and_copies(alice: HfApi, repo: str, tmp_path: Path) -> None:
    alice.create_commit(
        repo,
        [add("a.json", b"{}"), add("b.safetensors", b"weights"), add("old/c.txt"), add("d é.txt")],
        commit_message="1",
    )
    operations = [
        CommitOperationCopy("b.safetensors", "copy.safetensors"),
        CommitOperationCopy("a.json", "copy.json"),
        CommitOperationDelete("old/"),
        CommitOperationDelete("a.json"),
        add("e.txt", b""),
    ]

    commit = alice.create_commit(repo, operations, commit_message="2", commit_description="more")

    assert files(alice, repo) == ["b.safetensors", "copy.json", "copy.safetensors", "d é.txt", "e.txt"]
    assert content(alice, repo, "copy.safetensors", tmp_path) == b"weights"
    assert content(alice, repo, "copy.json", tmp_path) == b"{}"
    assert content(alice, repo, "d é.txt", tmp_path) == b"x"
    assert content(alice, repo, "e.txt", tmp_path) == b""
    history = alice.list_repo_commits(repo)
    assert [(entry.title, entry.message) for entry in history] == [("2", "more"), ("1", ""), ("initial commit", "")]
    assert (history[0].commit_id, history[0].authors) == (commit.oid, ["alice"])


def test_a_folder_is_uploaded_in_one_commit(alice: HfApi, repo: str, tmp_path: Path) -> None:
    alice.create_commit(repo, [add("logs/old.txt"), add("keep.txt")], commit_message="before")
    (tmp_path / "sub").mkdir()
    for name in ("model.safetensors", "config.json", "sub/inner.json", "sub/skipped.bin"):
        (tmp_path / name).write_bytes(name.encode())

    alice.upload_folder(
        repo_id=repo, folder_path=tmp_path, delete_patterns="logs/*", ignore_patterns="*.bin", revision="main"
    )

    assert files(alice, repo) == ["config.json", "keep.txt", "model.safetensors", "sub/inner.json"]
    assert len(alice.list_repo_commits(repo)) == 3


def test_what_is_there_already_is_not_committed_again(hub: HubServer, alice: HfApi, repo: str) -> None:
    first = alice.upload_file(path_or_fileobj=b"weights!", path_in_repo="a.safetensors", repo_id=repo)

    again = alice.upload_file(path_or_fileobj=b"weights!", path_in_repo="a.safetensors", repo_id=repo)
    sent = len(hub.requests)
    alice.upload_file(path_or_fileobj=b"weights!", path_in_repo="b.safetensors", repo_id=repo)

    assert again.oid == first.oid
    assert not any(request.method == "PUT" for request in hub.requests[sent:])


def test_a_commit_on_a_moved_branch_is_refused(alice: HfApi, repo: str) -> None:
    parent = alice.model_info(repo).sha
    alice.create_commit(repo, [add("first.txt")], commit_message="first", parent_commit=parent)

    with pytest.raises(HfHubHTTPError) as caught:
        alice.create_commit(repo, [add("second.txt")], commit_message="second", parent_commit=parent)

    assert caught.value.response.status_code == 412
    assert files(alice, repo) == ["first.txt"]


def test_a_commit_that_cannot_be_made_leaves_nothing(alice: HfApi, repo: str) -> None:
    before = alice.model_info(repo).sha
    operations = [add("new.txt"), CommitOperationDelete("nothing.txt")]

    with pytest.raises(HfHubHTTPError):
        alice.create_commit(repo, operations, commit_message="half")

    assert alice.model_info(repo).sha == before
    assert files(alice, repo) == []


def test_commits_at_once_are_made_one_by_one(alice: HfApi, repo: str) -> None:
    def push(number: int) -> str:
        return alice.create_commit(repo, [add(f"{number}.txt")], commit_message=str(number)).oid

    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(push, range(16)))

    assert len(set(commits)) == 16
    assert files(alice, repo) == sorted(f"{number}.txt" for number in range(16))
    assert {entry.commit_id for entry in alice.list_repo_commits(repo)} >= set(commits)


def test_branches_and_tags_name_commits(alice: HfApi, repo: str) -> None:
    old = alice.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo).oid
    alice.create_tag(repo, tag="v1.0")
    alice.create_branch(repo, branch="feature/x", revision="v1.0")
    new = alice.upload_file(path_or_fileobj=b"2", path_in_repo="b/c.txt", repo_id=repo, revision="feature/x").oid
    alice.create_tag(repo, tag="v2", revision="feature/x")

    references = alice.list_repo_refs(repo)

    assert {branch.name: branch.target_commit for branch in references.branches} == {"main": old, "feature/x": new}
    assert {tag.name: tag.target_commit for tag in references.tags} == {"v1.0": old, "v2": new}
    for revision in ("feature/x", "v2", new, new[:8]):
        assert alice.model_info(repo, revision=revision).sha == new
        assert files(alice, repo, revision) == ["a.txt", "b/c.txt"]
    with pytest.raises(HfHubHTTPError) as caught:
        alice.create_branch(repo, branch="feature/x")
    assert caught.value.response.status_code == 409
    alice.create_branch(repo, branch="feature/x", exist_ok=True)

    alice.delete_branch(repo, branch="feature/x")
    alice.delete_tag(repo, tag="v2")

    assert [len(names) for names in (alice.list_repo_refs(repo).branches, alice.list_repo_refs(repo).tags)] == [1, 1]
    assert alice.model_info(repo, revision=new).sha == new
    for revision in ("feature/x", "v2", "v9", "f" * 40):
        with pytest.raises(RevisionNotFoundError):
            alice.model_info(repo, revision=revision)
        with pytest.raises(RevisionNotFoundError):
            alice.upload_file(path_or_fileobj=b"2", path_in_repo="b.txt", repo_id=repo, revision=revision)


def test_pull_requests_have_references_of_their_own(alice: HfApi, repo: str) -> None:
    pull = alice.create_commit(repo, [add("proposed.txt")], commit_message="please", create_pr=True)

    assert pull.pr_revision == "refs/pr/1"
    alice.create_commit(repo, [add("more.txt")], commit_message="more", revision="refs/pr/1")

    assert files(alice, repo, "refs/pr/1") == ["more.txt", "proposed.txt"]
    assert files(alice, repo) == []
    (reference,) = alice.list_repo_refs(repo, include_pull_requests=True).pull_requests or ()
    assert reference.ref == "refs/pr/1"


@pytest.mark.parametrize("name", ["refs/pr/7", "a..b", "-x", "a/"])
def test_names_that_no_branch_can_have_are_refused(alice: HfApi, repo: str, name: str) -> None:
    with pytest.raises(BadRequestError, match="Invalid reference"):
        alice.create_branch(repo, branch=name)
    with pytest.raises(BadRequestError, match="Invalid reference"):
        alice.create_tag(repo, tag=name)
