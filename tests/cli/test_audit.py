"""``gradtx audit``: prints what it found, writes a report, refuses in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

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
