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


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_public_names_are_these() -> None:
    names = {"BlockLayout", "GradTransformerConfig", "GradTransformerModel", "PeftTranslator", "UpdateVector"}

    assert set(gradtx_hf.__all__) == names
    assert all(hasattr(gradtx_hf, name) for name in names)


def test_auto_classes_know_the_model_after_the_import() -> None:
    assert transformers.CONFIG_MAPPING["grad_transformer"] is gradtx_hf.GradTransformerConfig
    assert transformers.MODEL_MAPPING[gradtx_hf.GradTransformerConfig] is gradtx_hf.GradTransformerModel


def test_the_map_names_every_module() -> None:
    map_section = README.split("## Map")[1]
    modules = [path for path in (ROOT / "gradtx_hf").rglob("*.py") if path.name != "__init__.py"]

    missing = [str(path.relative_to(ROOT)) for path in modules if not re.search(rf"\b{path.name}", map_section)]
    gone = [name for name in re.findall(r"\b(\w+\.py)\b", map_section) if name not in {path.name for path in modules}]

    assert missing == []
    assert gone == []


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
