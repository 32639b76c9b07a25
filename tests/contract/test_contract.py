"""What users lean on: public names, the README's map and commands, imports that go down only, what is not tracked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import transformers

import gradtx_hf
from gradtx_hf.cli.main import COMMANDS
from gradtx_hf.playground import source_path, target_path
from gradtx_hf.studies.readme_results import render_results


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_public_names_are_these() -> None:
    names = {"BlockLayout", "GradTransformerConfig", "GradTransformerModel", "PeftTranslator", "UpdateVector"}

    assert set(gradtx_hf.__all__) == names
    assert all(hasattr(gradtx_hf, name) for name in names)


def test_auto_classes_know_the_model_after_the_import() -> None:
    assert transformers.CONFIG_MAPPING["grad_transformer"] is gradtx_hf.GradTransformerConfig
    assert transformers.MODEL_MAPPING[gradtx_hf.GradTransformerConfig] is gradtx_hf.GradTransformerModel


def test_the_map_names_every_module_at_its_folder_and_no_other() -> None:
    modules: dict[str, set[str]] = {}
    for path in (ROOT / "gradtx_hf").rglob("*.py"):
        if path.name != "__init__.py":
            modules.setdefault(path.parent.relative_to(ROOT / "gradtx_hf").as_posix(), set()).add(path.name)

    assert files_by_folder(README.split("## Map")[1].split("```")[1]) == modules


def test_a_module_left_out_of_its_folder_is_noticed() -> None:
    text = README.split("## Map")[1].split("```")[1]
    (line,) = [line for line in text.splitlines() if line.startswith("  training/")]

    without = files_by_folder(text.replace(line, line.replace(" data.py,", "")))

    assert "data.py" in without["finetuning"]
    assert "data.py" not in without["training"]


def files_by_folder(text: str) -> dict[str, set[str]]:
    """Return the modules that the map names: a folder's stand on its line and on the deeper lines below it."""
    found: dict[str, set[str]] = {}
    folder: str | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        start = re.match(r" *(\w+)/", line)
        if indent == 0:
            folder = "." if line.startswith("gradtx_hf/") else None
        elif indent == 2 and folder is not None:
            folder = start[1] if start else "."
        elif indent == 4 and folder is not None:
            folder = f"{folder.split('/')[0]}/{start[1]}" if start else folder.split("/")[0]
        names = set(re.findall(r"\b(\w+\.py)\b", line))
        if names and folder is not None:
            found.setdefault(folder, set()).update(names)
    return found


def test_the_readme_names_every_command() -> None:
    assert [name for name in COMMANDS if f"`gradtx {name}" not in README] == []


def test_the_readme_holds_the_test_command_for_ci() -> None:
    command = README.split("<!-- test command -->")[1].split("<!-- end -->")[0]

    assert command.count("pytest") == 1
    assert "torch==" in command


def test_imports_go_down_only() -> None:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout


def test_nothing_pickled_is_tracked_and_no_remote_code_is_asked_for() -> None:
    pickled = [p for p in ROOT.glob("gradtx_hf/**/*") if p.suffix in {".bin", ".pt", ".pkl", ".pickle", ".ckpt"}]
    asking = [
        path
        for path in (ROOT / "gradtx_hf").rglob("*.py")
        if re.search(r"trust_remote_code\s*=\s*True", path.read_text())
    ]

    assert pickled == []
    assert asking == []


def test_the_embedded_models_are_small() -> None:
    num_bytes = sum(p.stat().st_size for folder in (source_path(), target_path()) for p in folder.iterdir())

    assert num_bytes < 10_000_000


def test_the_readmes_results_are_those_of_the_kept_reports() -> None:
    assert render_results(README, root=ROOT) == README
    assert re.findall(r"<!-- results: ([\w ]+) -->", README)
