"""The server itself: what it keeps, what it records, what it refuses to start with."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from gradtx_hf.errors import ConfigurationError, MissingExtraError
from gradtx_hf.playground import hub_server
from gradtx_hf.playground.hub_server import HubServer, RecordedRequest
from tests.hubs import ALICE


def test_repositories_outlive_their_server(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token="hf_playground")
        api.create_repo("playground/kept", private=True)
        commit = api.upload_file(path_or_fileobj=b"x" * 99, path_in_repo="a.safetensors", repo_id="playground/kept").oid
        api.create_tag("playground/kept", tag="v1")
        api.create_branch("playground/kept", branch="a/b")
        before = hub.store.find("models", "playground/kept")

    with HubServer(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token="hf_playground")
        assert hub.store.find("models", "playground/kept") == before
        assert api.model_info("playground/kept", revision="v1").sha == commit
        path = api.hf_hub_download("playground/kept", "a.safetensors", revision="a/b", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == b"x" * 99


def test_what_a_killed_server_left_half_done_is_not_there(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token="hf_playground")
        api.create_repo("playground/killed")
        commit = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="playground/killed").oid
    folder = tmp_path / "hub" / "repositories" / "models" / "playground" / "killed"
    values = json.loads((folder / "commits" / f"{commit}.json").read_text())
    (folder / "commits" / f"{'f' * 40}.json").write_text(json.dumps({**values, "sha": "f" * 40, "parent": commit}))
    (folder / ".repository.json.tmp").write_text('{"kind": "mod')
    (tmp_path / "hub" / "blobs" / ".half").write_bytes(b"ha")

    with HubServer(tmp_path / "hub") as hub:
        repository = hub.store.find("models", "playground/killed")

        assert repository is not None
        assert repository.at("main").sha == commit
        assert "f" * 40 not in repository.commits


def test_requests_are_recorded_with_their_tokens(hub: HubServer, alice: HfApi, nobody: HfApi) -> None:
    for api in (alice, nobody):
        api.repo_exists("alice/never-asked-for-before")

    path = "/api/models/alice/never-asked-for-before"
    assert [request for request in hub.requests if request.path == path] == [
        RecordedRequest("GET", path, f"Bearer {ALICE}"),
        RecordedRequest("GET", path, ""),
    ]


def test_organizations_share_what_is_in_their_name(tmp_path: Path) -> None:
    users = {"hf_one": "one", "hf_two": "two", "hf_three": "three"}
    with HubServer(users=users, organizations={"both": ["one", "two"]}) as hub:
        one, two, three = (HfApi(endpoint=hub.url, token=token) for token in users)
        one.create_repo("both/shared", private=True)

        two.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="both/shared")

        assert one.file_exists("both/shared", "a.txt")
        assert not three.repo_exists("both/shared")
        with pytest.raises(HfHubHTTPError):
            three.create_repo("both/mine")
        three.create_repo("nobodys/mine", private=True)
        assert not one.repo_exists("nobodys/mine")


def test_a_folder_or_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub:
        with pytest.raises(ConfigurationError, match="is used by another server"):
            HubServer(tmp_path / "hub")
        with pytest.raises(ConfigurationError, match="cannot be used"):
            HubServer(port=int(hub.url.rpartition(":")[2]))


def test_without_the_extra_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r'pip install "gradtx-hf\[server\]"'):
        runpy.run_path(str(hub_server.__file__))


HIDING = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "fastapi" else find_spec(name, package)
"""


@pytest.mark.slow
def test_as_a_command_without_the_extra_it_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "gradtx_hf.playground.hub_server"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: gradtx_hf.playground.hub_server needs fastapi and uvicorn.")
    assert line.endswith('pip install "gradtx-hf[server]"')


def test_only_the_last_requests_are_kept_where_that_is_said() -> None:
    with HubServer(num_kept_requests=3) as hub:
        api = HfApi(endpoint=hub.url)
        for number in range(5):
            api.repo_exists(f"org/x{number}")

        assert [request.path for request in hub.requests] == [f"/api/models/org/x{number}" for number in (2, 3, 4)]
