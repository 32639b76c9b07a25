from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from gradtx_hf.errors import HubError
from gradtx_hf.hub import Card, Destination, Published, RepoKind, publish, require_publishable
from gradtx_hf.hub.readme import BEGIN
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.playground.hub_server.faults import FAULT_KINDS
from tests.hubs import ALICE, BOB, add_repository


KIND = RepoKind("translator", ("config.json", "*.safetensors", "parts/*"))
CARD = Card({"library_name": "gradtx_hf", "tags": ["gradtx_hf"]}, "# Name\n\nWords.")
FILES = {"config.json": b"{}", "model.safetensors": b"\0" * 2000}
NUMBERS = itertools.count()


@pytest.fixture
def repo_id() -> str:
    return f"alice/published-{next(NUMBERS)}"


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nothing wait, and return what would have been waited."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def push(repo_id: str, files: Mapping[str, Path | bytes] = FILES, *, card: Card = CARD, **options: object) -> Published:
    destination = Destination(repo_id, **{"token": ALICE, **options})  # type: ignore[arg-type]
    return publish(files, destination, kind=KIND, card=card, commit_message="a commit")


def files_of(hub: HubServer, repo_id: str, revision: str = "main") -> list[str]:
    return sorted(set(HfApi(token=ALICE).list_repo_files(repo_id, revision=revision)) - {".gitattributes"})


def commits_of(repo_id: str, revision: str = "main") -> list[str]:
    return [commit.commit_id for commit in HfApi(token=ALICE).list_repo_commits(repo_id, revision=revision)]


def readme_of(repo_id: str, tmp_path: Path) -> str:
    return Path(HfApi(token=ALICE).hf_hub_download(repo_id, "README.md", local_dir=tmp_path)).read_text()


def test_everything_is_one_commit_in_a_private_repository(hub: HubServer, repo_id: str) -> None:
    published = push(repo_id)

    assert published == Published(repo_id, commits_of(repo_id)[0], f"{hub.url}/{repo_id}", True)
    assert len(commits_of(repo_id)) == 2  # the first is the Hub's own
    assert files_of(hub, repo_id) == ["README.md", "config.json", "model.safetensors"]
    assert HfApi(token=ALICE).model_info(repo_id).private


def test_a_public_repository_is_made_only_where_it_is_asked_for(repo_id: str) -> None:
    push(repo_id, private=False)

    assert not HfApi(token=ALICE).model_info(repo_id).private
    with pytest.raises(HubError, match="is public"):
        push(repo_id)


def test_files_come_from_the_disk_too(repo_id: str, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"12345" * 1000)

    push(repo_id, {"parts/a/model.safetensors": tmp_path / "weights"})

    found = HfApi(token=ALICE).hf_hub_download(repo_id, "parts/a/model.safetensors", local_dir=tmp_path)
    assert Path(found).read_bytes() == b"12345" * 1000


def test_the_same_again_makes_no_commit(repo_id: str) -> None:
    first = push(repo_id)

    again = push(repo_id)

    assert again == Published(repo_id, first.commit, first.url, False)
    assert commits_of(repo_id)[0] == first.commit


def test_an_update_replaces_what_is_ours_and_leaves_the_rest(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    push(repo_id, {"config.json": b"{}", "parts/a/model.safetensors": b"1" * 900})
    HfApi(token=ALICE).upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=repo_id)
    mine = readme_of(repo_id, tmp_path).replace(BEGIN, f"My words.\n\n{BEGIN}")
    HfApi(token=ALICE).upload_file(path_or_fileobj=mine.encode(), path_in_repo="README.md", repo_id=repo_id)

    push(repo_id, FILES, card=Card(CARD.metadata, "New words."))

    assert files_of(hub, repo_id) == ["README.md", "config.json", "model.safetensors", "notes.txt"]
    assert readme_of(repo_id, tmp_path) == mine.replace("# Name\n\nWords.", "New words.")


@pytest.mark.parametrize(
    "files",
    [
        {"model.safetensors": b"someone's"},
        {"README.md": b"---\nlibrary_name: peft\n---\n", "adapter_config.json": b"{}"},
        {"README.md": b"---\ngradtx_hf:\n  kind: adapter\n---\n", "adapter_config.json": b"{}"},
    ],
)
def test_a_repository_of_something_else_is_not_written_over(
    hub: HubServer, repo_id: str, files: dict[str, bytes]
) -> None:
    commit = add_repository(hub, repo_id, files, is_private=True)

    for options in ({}, {"revision": "new-branch"}):
        with pytest.raises(HubError, match=r"which a translator is not to write over"):
            push(repo_id, **options)

    assert commits_of(repo_id)[0] == commit
    assert [branch.name for branch in HfApi(token=ALICE).list_repo_refs(repo_id).branches] == ["main"]


def test_a_repository_with_no_more_than_a_readme_is_taken(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    add_repository(
        hub, repo_id, {"README.md": b"---\nlicense: mit\n---\nTo come.\n", "LICENSE": b"MIT"}, is_private=True
    )

    push(repo_id)

    text = readme_of(repo_id, tmp_path)
    assert text.startswith("---\nlicense: mit\n")
    assert "---\nTo come.\n" in text


def test_a_branch_is_made_if_need_be(hub: HubServer, repo_id: str) -> None:
    published = push(repo_id, revision="try/one")

    assert published.url == f"{hub.url}/{repo_id}/tree/try/one"
    assert commits_of(repo_id, "try/one")[0] == published.commit
    assert files_of(hub, repo_id) == []
    assert push(repo_id, revision="try/one").is_changed is False


def test_another_persons_change_is_never_written_over(
    hub: HubServer, repo_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(repo_id)
    create_commit = HfApi.create_commit

    def slower_than_another(self: HfApi, *arguments: object, **options: object) -> object:
        monkeypatch.setattr(HfApi, "create_commit", create_commit)
        HfApi(token=ALICE).upload_file(path_or_fileobj=b"{1}", path_in_repo="config.json", repo_id=repo_id)
        return create_commit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "create_commit", slower_than_another)

    with pytest.raises(HubError, match="changed by someone else"):
        push(repo_id, {"config.json": b"{2}"})

    assert len(commits_of(repo_id)) == 3
    assert files_of(hub, repo_id) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", ["500", "503", "429", "drop_upload", "drop_response"])
@pytest.mark.parametrize("path", ["/api/repos/create", "/api/models/*/commit/*", "/api/validate-yaml", "/api/models/*"])
def test_failures_that_pass_are_tried_again(hub: HubServer, repo_id: str, kind: str, path: str) -> None:
    hub.faults.add(kind, path=path, times=2)  # type: ignore[arg-type]

    published = push(repo_id)

    assert commits_of(repo_id) == [published.commit, commits_of(repo_id)[-1]]


@pytest.mark.parametrize("kind", ["drop_download", "corrupt_download", "500"])
def test_a_readme_that_is_damaged_on_its_way_is_never_written_back(
    hub: HubServer, repo_id: str, tmp_path: Path, kind: str
) -> None:
    push(repo_id)
    before = readme_of(repo_id, tmp_path)
    hub.faults.add(kind, method="GET", path="*/README.md", times=2)  # type: ignore[arg-type]

    push(repo_id, {"config.json": b"{2}", "model.safetensors": FILES["model.safetensors"]})

    assert readme_of(repo_id, tmp_path) == before


def test_a_large_file_that_arrives_damaged_is_sent_again(hub: HubServer, repo_id: str, tmp_path: Path) -> None:
    hub.faults.add("corrupt_upload", method="PUT", times=2)

    push(repo_id)

    found = HfApi(token=ALICE).hf_hub_download(repo_id, "model.safetensors", local_dir=tmp_path)
    assert Path(found).read_bytes() == FILES["model.safetensors"]


def test_a_lost_answer_to_the_commit_is_no_failure(hub: HubServer, repo_id: str) -> None:
    hub.faults.add("drop_response", path="/api/models/*/commit/*", times=1)

    published = push(repo_id)

    assert commits_of(repo_id)[0] == published.commit
    assert len(commits_of(repo_id)) == 2


def test_where_a_lost_answer_cannot_be_looked_up_nothing_is_claimed(
    hub: HubServer, repo_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(repo_id)
    create_commit = HfApi.create_commit

    def while_the_hub_goes_down(self: HfApi, *arguments: object, **options: object) -> object:
        hub.faults.add("drop_response", path="/api/models/*/commit/*")
        hub.faults.add("500", method="GET")
        return create_commit(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "create_commit", while_the_hub_goes_down)

    with pytest.raises(HubError, match="it is not known whether") as refused:
        push(repo_id, {"config.json": b"{5}"})

    monkeypatch.undo()
    hub.faults.clear()
    assert "\n" not in str(refused.value)
    assert "Nothing was written" not in str(refused.value)
    assert len(commits_of(repo_id)) == 3
    assert push(repo_id, {"config.json": b"{5}"}).is_changed is False


def test_the_hub_says_how_long_to_wait(hub: HubServer, repo_id: str, waits: list[float]) -> None:
    hub.faults.add("429", path="/api/models/*/commit/*", times=1, seconds=30)

    push(repo_id)

    assert 30 in waits


@pytest.mark.parametrize(
    ("kind", "seconds", "saying"),
    [
        ("500", 0, "keeps failing with HTTP 500"),
        ("403", 0, "refuses to write"),
        ("429", 3600, "asks to wait 3600 s"),
        ("drop_upload", 0, "no lasting connection"),
    ],
)
def test_a_failure_that_stays_is_one_line_and_writes_nothing(
    hub: HubServer, repo_id: str, kind: str, seconds: float, saying: str
) -> None:
    before = push(repo_id).commit
    hub.faults.add(kind, path="/api/models/*/commit/*", seconds=seconds)  # type: ignore[arg-type]

    with pytest.raises(HubError, match=saying) as refused:
        push(repo_id, {"config.json": b"{3}"})

    assert "\n" not in str(refused.value)
    assert ALICE not in str(refused.value)
    hub.faults.clear()
    assert commits_of(repo_id)[0] == before


def test_under_random_faults_a_push_succeeds_or_says_why_and_every_commit_is_whole(
    hub: HubServer, repo_id: str
) -> None:
    outcomes, refusals = [], []
    for number in range(12):
        hub.faults.add(*FAULT_KINDS[1:6], probability=0.2, seed=number)
        content = {"config.json": b"{%d}" % number, "model.safetensors": bytes([number]) * 2000}
        try:
            outcomes.append(push(repo_id, content).commit)
        except HubError as error:
            refusals.append(str(error))
        hub.faults.clear()

    assert len(outcomes) >= 10
    assert not any("\n" in refusal for refusal in refusals)
    commits = commits_of(repo_id)
    assert set(outcomes) <= set(commits)
    repository = hub.store.find("models", repo_id)
    assert repository is not None
    for commit in commits[:-1]:
        entries = {e.path: e for e in HfApi(token=ALICE).list_repo_tree(repo_id, revision=commit)}
        assert {"README.md", "config.json", "model.safetensors"} <= set(entries)
        sizes = entries["model.safetensors"]
        number = next(n for n in range(12) if hashlib.sha256(bytes([n]) * 2000).hexdigest() == sizes.lfs.sha256)
        content = b"{%d}" % number
        assert entries["config.json"].blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.mark.parametrize("token", [BOB, "hf_unknown", None])
def test_who_may_not_write_is_told_so_without_the_token(repo_id: str, token: str | None) -> None:
    push(repo_id)

    with pytest.raises(HubError) as refused:
        push(repo_id, {"config.json": b"{4}"}, token=token)

    assert "token" in str(refused.value)
    assert str(token) not in str(refused.value)


def test_the_network_can_be_switched_off(repo_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(HubError, match="switched off"):
        push(repo_id)


def test_a_place_is_checked_without_writing(hub: HubServer, repo_id: str) -> None:
    require_publishable(Destination(repo_id, token=ALICE), kind=KIND)
    with pytest.raises(HubError, match="token"):
        require_publishable(Destination(repo_id, token="hf_unknown"), kind=KIND)
    add_repository(hub, "alice/else", {"model.safetensors": b"1"}, is_private=True)
    with pytest.raises(HubError, match="not to write over"):
        require_publishable(Destination("alice/else", token=ALICE), kind=KIND)

    assert hub.store.find("models", repo_id) is None
