"""The Hub walkthrough as a user runs it: a process of its own, and all that it starts."""

from __future__ import annotations

import ast
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gradtx_hf.playground import make_lines, split_rules


FOLDER = Path(__file__).parents[2] / "examples" / "hub_walkthrough"
SCRIPT = FOLDER / "walkthrough.py"


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the walkthrough with its temporary files in a folder."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"TMPDIR": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.long  # eight processes, five of which import torch: 25 s of one core
def test_every_step_works_over_http_and_nothing_is_left(tmp_path: Path) -> None:
    done = run(folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "ModuleNotFoundError: No module named 'gradtx_hf'" in done.stdout
    assert "stranger$" in done.stdout
    assert "HTTP 401" in done.stdout
    assert "provider$ gradtx translate org/client-adapter" in done.stdout
    assert "  untouched                    0.0" in done.stdout
    assert "hf_provider" not in done.stdout.split("export", 1)[1]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # two processes that import torch
def test_an_occupied_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        done = run("--port", occupied.getsockname()[1], folder=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith("error: the Hub did not start: port ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(sys.modules, "fastapi", None)

    status = main([])

    captured = capsys.readouterr()
    assert status == 1
    assert captured.out == ""
    assert captured.err == (
        'error: there is no package fastapi. Install it with: pip install "gradtx-hf[server,train]"\n'
    )


@pytest.mark.parametrize("name", ["client_lines.py", "client_train.py", "client_use.py"])
def test_the_client_runs_nothing_of_this_package(name: str) -> None:
    nodes = list(ast.walk(ast.parse((FOLDER / name).read_text())))

    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.startswith("gradtx")]


def test_the_clients_rule_is_one_that_the_embedded_translator_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (rule,) = [rule for rule in split_rules("full", seed=0).seen if rule.name == "reverse+3"]
    namespace = runpy.run_path(str(FOLDER / "client_lines.py"))

    namespace["main"]()

    lines = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("private", "held_out")]
    assert [len(part) for part in lines] == [1024, 100]
    assert len({line for part in lines for line in part}) == 1124
    for row in make_lines([rule], 50, seed=0):
        assert namespace["apply_rule"](row["prompt"][2:8]) == row["completion"]
