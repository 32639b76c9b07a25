"""The ``hf`` command in processes of its own, and the Hub's own command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradtx_hf.playground.hub_server.__main__ import main
from tests.hubs import ALICE


HF = shutil.which("hf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def hf(*arguments: str, home: Path, **environment: str) -> str:
    """Run ``hf`` and return its standard output."""
    assert HF is not None
    values = {**os.environ, "HF_TOKEN": ALICE, "HF_HOME": str(home), "HF_HUB_DISABLE_UPDATE_CHECK": "1", **environment}
    done = subprocess.run([HF, *arguments], env=values, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_hf_command_does_its_work(hub: object, repo_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sub" / "config.json").write_text("{}")

    def run(*arguments: str) -> str:
        return hf(*arguments, home=tmp_path)

    assert "alice" in run("auth", "whoami")
    assert repo_id in run("repos", "create", repo_id, "--private")
    run("upload", repo_id, str(folder), ".", "--commit-message", "all")
    run("repos", "tag", "create", repo_id, "v1")
    run("repos", "branch", "create", repo_id, "next")
    run("download", repo_id, "--revision", "v1", "--local-dir", str(tmp_path / "back"))
    info = json.loads(run("models", "info", repo_id, "--format", "json"))
    listed = run("models", "ls", "--search", repo_id, "--format", "json")

    assert (tmp_path / "back" / "model.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "back" / "sub" / "config.json").read_text() == "{}"
    assert (info["id"], info["private"]) == (repo_id, True)
    assert repo_id in listed


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start a Hub in a process of its own and return it with what it says its clients must set."""
    command = [
        sys.executable,
        "-m",
        "gradtx_hf.playground.hub_server",
        "--port",
        "0",
        "--data-dir",
        str(tmp_path / "hub"),
    ]
    process = subprocess.Popen(
        [*command, "--token", "hf_own=me", "--token", "hf_other=you"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    exported = [line.split("#")[0].split()[1].partition("=") for line in lines if line.startswith("export ")]
    yield process, {name: value for name, _, value in exported}
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_user_starts_a_hub(own_hub: tuple[subprocess.Popen[str], dict[str, str]], tmp_path: Path) -> None:
    process, exported = own_hub

    assert set(exported) == {"HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_TOKEN"}
    assert "me" in hf("auth", "whoami", home=tmp_path, **exported)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--token", "hf_secret"], "expected --token TOKEN=USER"),
        (["--port", "99999"], "port 99999 cannot be used"),
        (["--port", "0", "--fault-rate", "2"], "expected a number from 0 to 1"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    assert main(arguments) == 1

    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert "hf_secret" not in error
