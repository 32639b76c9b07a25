"""``gradtx audit``: prints what it found, writes a report, refuses in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from gradtx_hf.playground.world import Rule, make_lines
from tests.cli.conftest import Finished
from tests.curation.world import save_model
from tests.tiny import save_tiny_adapter, tiny_llama, with_lora


Gradtx = Callable[..., Finished]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model, an adapter of it, and rows of both kinds."""
    base = save_model(tmp_path / "base", hidden_size=16, num_layers=2, seed=0)
    save_tiny_adapter(tmp_path / "adapter", base=base)
    for kind in ("members", "others"):
        lines = make_lines([Rule("reverse", 3)], 12, seed=kind)
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def flags(folder: Path, name: str = "out") -> list[object]:
    rows = ["--members", folder / "members.jsonl", "--non-members", folder / "others.jsonl"]
    return [*rows, "--output-dir", folder / name]


def test_it_prints_the_report_and_writes_it(gradtx: Gradtx, folder: Path) -> None:
    done = gradtx("audit", folder / "adapter", *flags(folder), "--write-card")

    assert done.status == 0
    assert done.out.startswith("# Audit\n")
    assert "this attack does not tell what it was trained on" in done.out
    assert "12 members, 12 non-members" in done.out
    assert all(str(folder / "out" / f"report.{suffix}") in done.err for suffix in ("md", "json", "png"))
    assert f"wrote the result into {folder / 'adapter'}/privacy.json" in done.err
    assert "members: 100%" in done.err  # the bar
    inspected = gradtx("inspect", folder / "adapter")
    assert inspected.status == 0
    assert "privacy: no differential privacy is stated" in inspected.out
    (line,) = [line for line in inspected.out.splitlines() if line.startswith("audit: ")]
    assert line.startswith("audit: membership inference by the loss beside the untouched model's (difference) on 12 ")
    assert ": AUC 0." in line
    assert json.loads(gradtx("inspect", folder / "adapter", "--json").out)["audit"]["num_members"] == 12


def test_inspect_shows_no_control_characters_of_what_is_stated(gradtx: Gradtx, folder: Path) -> None:
    assert "audit: none is recorded" in gradtx("inspect", folder / "adapter").out.splitlines()
    statement = {"epsilon": 1, "delta": 1e-5, "accountant": "prv", "unit": "a row\x1b[2Jprivacy: all is well"}
    (folder / "adapter" / "privacy.json").write_text(json.dumps(statement))

    shown = gradtx("inspect", folder / "adapter").out

    assert "unit: a row\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_inspect_shows_what_stands_in_the_header_of_the_tensors(gradtx: Gradtx, folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "trained_on": "patients.jsonl"})

    shown = gradtx("inspect", folder / "adapter").out.splitlines()

    assert "  trained_on: patients.jsonl" in shown[shown.index("metadata:") :]
    assert json.loads(gradtx("inspect", folder / "adapter", "--json").out)["metadata"]["trained_on"] == "patients.jsonl"


def test_inspect_refuses_an_audit_that_makes_no_sense(gradtx: Gradtx, folder: Path) -> None:
    (folder / "adapter" / "privacy.json").write_text('{"audit": {"auc": 7}}')

    assert "is not what gradtx audit writes" in gradtx("inspect", folder / "adapter").error


def test_a_configuration_serves_as_well(gradtx: Gradtx, folder: Path) -> None:
    config = folder / "audit.yaml"
    values = {"members": {"path": str(folder / "members.jsonl")}, "non_members": str(folder / "others.jsonl")}
    config.write_text(yaml.safe_dump(values | {"max_length": 32, "split_by_coins": True}))

    done = gradtx("audit", folder / "adapter", "--config", config, "--output-dir", folder / "out", "--json")

    (found,) = json.loads(done.out)["adapters"]
    assert found["epsilon_bound"]["num_canaries"] == 24
    assert found["privacy"] is None
    assert found["attacks"]["difference"]["rates"][0]["reason"] == "12 non-members are too few: it takes 100 or more"


def test_what_is_wrong_is_refused_in_one_line(gradtx: Gradtx, folder: Path) -> None:
    (folder / "one.jsonl").write_text((folder / "others.jsonl").read_text().splitlines()[0] + "\n")
    with_lora(tiny_llama()).save_pretrained(folder / "baseless")

    errors = [
        gradtx("audit", folder / "nowhere", *flags(folder)).error,
        gradtx("audit", folder / "adapter", *flags(folder), "--non-members", folder / "one.jsonl").error,
        gradtx("audit", folder / "adapter", *flags(folder), "--non-members", folder / "members.jsonl").error,
        gradtx("audit", folder / "baseless", *flags(folder)).error,
        gradtx("audit", folder / "adapter", "--output-dir", folder / "out").error,
    ]

    assert "nowhere" in errors[0]
    assert errors[1] == "got 1 non-members, expected at least 2. Give more rows."
    assert "12 rows that are among the members and among the non-members" in errors[2]
    assert "names no base model. Give base_models." in errors[3]
    assert errors[4] == "'members' is missing. Give it in --config, or as --members."
    assert not (folder / "out").exists()
