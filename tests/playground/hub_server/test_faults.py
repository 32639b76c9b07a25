"""Each kind of fault as the real client meets it: what it does, to whom, how often, and that no commit is half-made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import get_session

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground.hub_server import FaultKind, Faults, HubServer
from tests.hubs import ALICE, set_files


WEIGHTS = bytes(range(256)) * 1000


def upload(api: HfApi, repo: str, path: str = "model.safetensors", content: bytes = WEIGHTS) -> str:
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo).oid


@pytest.mark.parametrize("kind", ["500", "503", "429", "drop_upload", "drop_response", "corrupt_upload"])
def test_an_upload_that_fails_twice_is_done_in_the_end(
    hub: HubServer, alice: HfApi, repo: str, waits: list[float], kind: FaultKind, tmp_path: Path
) -> None:
    hub.faults.add(kind, method="PUT", path="/lfs/*", times=2, seconds=3)
    content = kind.encode() + WEIGHTS

    if kind == "corrupt_upload":
        for _ in range(2):
            with pytest.raises(RuntimeError, match="Error while uploading") as caught:
                upload(alice, repo, content=content)
            assert "content has sha256" in str(caught.value.__cause__)
    upload(alice, repo, content=content)

    assert list(hub.faults) == []
    assert Path(hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path)).read_bytes() == content
    assert waits == {"429": [4.0, 4.0], "corrupt_upload": []}.get(kind, [1, 2])


@pytest.mark.parametrize("kind", ["403", "500", "429", "drop_upload"])
def test_a_commit_that_fails_is_not_made(
    hub: HubServer, alice: HfApi, repo: str, waits: list[float], kind: FaultKind
) -> None:
    before = alice.model_info(repo).sha
    hub.faults.add(kind, method="POST", path=f"/api/models/{repo}/commit/*")

    with pytest.raises((HfHubHTTPError, HTTPError)):
        upload(alice, repo, "config.json", b"{}")

    assert alice.model_info(repo).sha == before


def test_a_commit_whose_answer_is_lost_is_made(hub: HubServer, alice: HfApi, repo: str, waits: list[float]) -> None:
    hub.faults.add("drop_response", method="POST", path=f"/api/models/{repo}/commit/*", times=1)

    with pytest.raises(HTTPError):
        upload(alice, repo, "config.json", b"{}")

    assert alice.file_exists(repo, "config.json")
    assert len(alice.list_repo_commits(repo)) == 2


def test_a_dropped_download_is_resumed(
    hub: HubServer, alice: HfApi, repo: str, waits: list[float], tmp_path: Path
) -> None:
    upload(alice, repo)
    hub.faults.add("drop_download", path=f"/{repo}/resolve/*", times=2)

    path = hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path)

    assert Path(path).read_bytes() == WEIGHTS
    assert list(hub.faults) == []
    assert sum(request.method == "GET" and "resolve" in request.path for request in hub.requests[-4:]) == 3


def test_a_slow_download_takes_its_time(hub: HubServer, repo: str, tmp_path: Path) -> None:
    set_files(hub, repo, {"config.json": b"{}" * 50})
    hub.faults.add("slow_download", method="GET", path="*/config.json", seconds=0.2)
    started = time.monotonic()

    path = hf_hub_download(repo, "config.json", cache_dir=tmp_path)

    assert time.monotonic() - started >= 0.2
    assert Path(path).read_bytes() == b"{}" * 50


def test_a_corrupted_download_has_the_right_size_and_another_checksum(
    hub: HubServer, alice: HfApi, repo: str, tmp_path: Path
) -> None:
    upload(alice, repo)
    hub.faults.add("corrupt_download", path=f"/{repo}/resolve/*", method="GET", times=1)

    path = Path(alice.hf_hub_download(repo, "model.safetensors", local_dir=tmp_path))

    assert path.stat().st_size == len(WEIGHTS)
    assert path.read_bytes() != WEIGHTS
    assert alice.verify_repo_checksums(repo, local_dir=tmp_path).mismatches


def test_faults_are_drawn_by_their_seed_and_their_share() -> None:
    def drawn(seed: int) -> list[object]:
        faults = Faults()
        faults.add("500", "drop_upload", "drop_download", probability=0.2, seed=seed)
        return [faults.draw("GET", "/x") for _ in range(1000)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert 150 < sum(fault is not None for fault in drawn(0)) < 250
    assert {fault[0] for fault in drawn(0) if isinstance(fault, tuple)} == {"500", "drop_download"}


def test_the_first_fault_that_fits_is_taken() -> None:
    faults = Faults()
    faults.add("500", method="PUT", times=1)
    faults.add("503", path="/api/*")

    assert [faults.draw("PUT", "/api/x"), faults.draw("PUT", "/api/x"), faults.draw("GET", "/lfs/x")] == [
        ("500", 0.0), ("503", 0.0), None,
    ]  # fmt: skip
    faults.clear()
    assert faults.draw("GET", "/api/x") is None


@pytest.mark.parametrize(
    ("kinds", "options", "words"),
    [
        (("404",), {}, "got fault kind"),
        ((), {}, "got fault kind none"),
        (("500",), {"probability": 1.5}, "from 0 to 1"),
        (("500",), {"times": 0}, "at least 1"),
        (("500",), {"seconds": -1.0}, "at least 0"),
    ],
)
def test_faults_that_cannot_be_are_refused(kinds: tuple[FaultKind, ...], options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Faults().add(*kinds, **options)


def test_faults_are_asked_for_over_http(hub: HubServer) -> None:
    def ask(method: str, *, token: str = ALICE, **fault: object) -> int:
        headers = {"authorization": f"Bearer {token}"}
        return get_session().request(method, f"{hub.url}/playground/faults", headers=headers, json=fault).status_code

    assert ask("POST", kinds=["500"], path="/api/*", times=3, seed=1) == 200
    assert [(fault.kinds, fault.times) for fault in hub.faults] == [(("500",), 3)]
    assert get_session().get(f"{hub.url}/api/models").status_code == 500
    assert ask("POST", kinds=["500"], probability=7) == 400
    assert ask("POST", kinds=["no such kind"]) == 422
    assert ask("POST", kinds=["500"], token="hf_unknown") == 401
    assert ask("DELETE") == 200
    assert list(hub.faults) == []


def test_pushes_under_random_faults_are_whole_or_not_there(
    hub: HubServer, alice: HfApi, repo: str, waits: list[float], tmp_path: Path
) -> None:
    kinds: tuple[FaultKind, ...] = ("500", "503", "429", "drop_upload", "drop_response", "drop_download")
    hub.faults.add(*kinds, probability=0.2, seed=3)
    num_failed = 0

    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(WEIGHTS[:1000] + bytes([number]))
        (folder / "config.json").write_text(str(number))
        try:
            alice.upload_folder(repo_id=repo, folder_path=folder)
        except (HfHubHTTPError, HTTPError):
            num_failed += 1
    hub.faults.clear()

    assert 0 < num_failed < 30
    repository = hub.store.find("models", repo)
    assert repository is not None
    commits = [commit for commit in repository.history(repository.at("main")) if commit.parent is not None]
    assert len(commits) >= 30 - num_failed
    for commit in commits:
        weights, config = (
            hub.store.blobs.read(commit.files[name].sha256) for name in ("model.safetensors", "config.json")
        )
        assert weights == WEIGHTS[:1000] + bytes([int(config)])
