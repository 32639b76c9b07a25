"""The Space: pushed whole by one command, with requirements that are the package's own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, snapshot_download
from packaging.requirements import Requirement

import gradtx_hf
from gradtx_hf.demo import push_space
from gradtx_hf.demo.results import report_names
from gradtx_hf.errors import ConfigurationError, HubError, MissingFileError
from gradtx_hf.playground.hub_server import HubServer
from tests.hubs import ALICE, add_repository


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces" / "translate-adapter"


def test_the_documented_command_pushes_the_space_with_all_that_it_needs(
    hub: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setattr(sys, "argv", ["push_space", "alice/translate-adapter", "--folder", str(SPACE)])

    push_space.main()

    url = capsys.readouterr().out.strip()
    info = HfApi().space_info("alice/translate-adapter")
    names = {file.rfilename for file in info.siblings or []}
    assert url.endswith("/spaces/alice/translate-adapter")
    assert info.sdk == "gradio"
    assert {
        "app.py",
        "README.md",
        "requirements.txt",
        "gradtx_hf/demo/style.css",
        "gradtx_hf/demo/results/functional.json",
        "gradtx_hf/demo/results/studies/baselines.json",
        "gradtx_hf/demo/clients/odds_first_7/adapter_model.safetensors",
        "gradtx_hf/playground/assets/translator/model.safetensors",
        f"gradtx_hf-{gradtx_hf.__version__}.dist-info/METADATA",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert len(HfApi().list_repo_commits("alice/translate-adapter", repo_type="space")) == 2


def test_a_file_that_is_no_longer_there_goes_with_the_next_push(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    files = {"README.md": b"", "gradtx_hf/__init__.py": b"", "gradtx_hf/old.py": b""}
    add_repository(hub, "alice/old-space", files, kind="spaces")

    push_space.push_space("alice/old-space", SPACE, private=False)

    names = {file.rfilename for file in HfApi().space_info("alice/old-space").siblings or []}
    assert "gradtx_hf/old.py" not in names
    assert "gradtx_hf/demo/app.py" in names


def test_another_app_is_not_written_over(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    add_repository(hub, "alice/game", {"README.md": b"", "app.py": b"play()"}, kind="spaces")

    with pytest.raises(HubError, match="Space 'alice/game' holds another app"):
        push_space.push_space("alice/game", SPACE, private=False)


def test_what_is_no_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected an id"):
        push_space.push_space("plain", SPACE, private=False)
    with pytest.raises(MissingFileError, match=r"has no app\.py"):
        push_space.push_space("alice/space", tmp_path, private=False)


def test_the_pushed_requirements_are_those_of_the_package_and_not_the_package() -> None:
    content = push_space.space_files(SPACE)["requirements.txt"]

    assert isinstance(content, bytes)
    first, *lines = content.decode().splitlines()
    wanted = {Requirement(line) for line in requires("gradtx-hf") or [] if ";" not in line}
    names = {Requirement(line).name for line in lines}
    assert first.startswith("--extra-index-url https://download.pytorch.org/")
    assert {str(requirement) for requirement in wanted} <= set(lines)
    assert {"torch", "transformers", "gradio", "trl", "datasets"} <= names
    assert not {"gradtx-hf", "pytest"} & names
    assert lines == sorted(set(lines))


def test_the_readme_says_what_the_hub_must_know() -> None:
    front = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1])

    assert (front["sdk"], front["app_file"], front["hf_oauth"]) == ("gradio", "app.py", True)
    assert front["sdk_version"].split(".")[0] == "6"
    assert len(front["short_description"]) <= 60
    assert set(front["hf_oauth_scopes"]) == {"read-repos", "contribute-repos"}


@pytest.mark.slow
def test_the_space_runs_from_what_was_pushed(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    push_space.push_space("alice/running", SPACE, private=False)
    folder = snapshot_download("alice/running", repo_type="space", local_dir=tmp_path / "space")
    code = (
        "import app, gradtx_hf, importlib.metadata as m;"
        "from gradtx_hf.demo.results import report_names;"
        "print(gradtx_hf.__file__, m.distribution('gradtx-hf')._path.resolve(), len(report_names()), len(app.demo.fns))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    package, metadata, reports, events = done.stdout.split()
    assert package.startswith(str(tmp_path))
    assert metadata.startswith(str(tmp_path))
    assert int(reports) == len(report_names())
    assert int(events) > 15
