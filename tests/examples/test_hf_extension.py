"""``hf gradtx``: the extension as ``hf extensions install`` would lay it down, run by the real ``hf``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradtx_hf.cli.main import COMMANDS


EXTENSION = Path(__file__).parents[2] / "examples" / "hf-gradtx"
SCRIPTS = Path(sys.executable).parent


def run(*command: object, home: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(home), "PATH": path, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_hf_gradtx_runs_gradtx_with_its_arguments_and_status(tmp_path: Path) -> None:
    installed = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-gradtx"
    shutil.copytree(EXTENSION, installed)
    manifest = {
        "owner": "owner",
        "repo": "hf-gradtx",
        "repo_id": "owner/hf-gradtx",
        "short_name": "gradtx",
        "executable_path": str(installed / "hf-gradtx"),
        "type": "binary",
        "installed_at": "2026-01-01T00:00:00+00:00",
    }
    (installed / "manifest.json").write_text(json.dumps(manifest))
    path = f"{SCRIPTS}:{os.environ['PATH']}"

    done = run(SCRIPTS / "hf", "gradtx", "--help", home=tmp_path, path=path)
    refused = run(SCRIPTS / "hf", "gradtx", "inspect", tmp_path / "not there", home=tmp_path, path=path)

    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")


def test_without_gradtx_it_says_what_to_install(tmp_path: Path) -> None:
    done = run(EXTENSION / "hf-gradtx", "--help", home=tmp_path, path="/usr/bin:/bin")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: gradtx is not installed")
    assert 'pip install "gradtx-hf[train]"' in done.stderr


def test_its_description_is_the_one_that_hf_shows() -> None:
    assert set(json.loads((EXTENSION / "manifest.json").read_text())) == {"description"}
