"""Studies of the paper go their whole way with tiny random models, and go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradtx_hf.errors import ConfigurationError, OutputExistsError, StoreError
from gradtx_hf.studies.paper import run
from gradtx_hf.studies.paper.definition import FOLDER, PaperStudy, load_paper_study
from gradtx_hf.studies.paper.run import run_paper_study
from gradtx_hf.studies.paper.tiny import NUM_MEMBERS


def study(name: str) -> PaperStudy:
    return load_paper_study(FOLDER / f"{name}.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "study"
    run_paper_study(study("table_4"), folder, cells=["block", "reversed"], is_dry_run=True, command="gradtx study …")
    return folder


def test_the_table_has_the_papers_row_ours_and_the_controls(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "No number here means anything" in text
    (row,) = [
        line for line in text.splitlines() if line.startswith("| Block by block | 54.05 | 63.57 | 65.23 | 85.15 |")
    ]
    assert row.endswith(f"| {NUM_MEMBERS} |")
    assert "nearest shadow" in text
    assert "Not run: projection." in text
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_numbers_are_those_of_the_cells_own_report(folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text())
    cells = {cell["name"]: cell for cell in found["cells"]}
    own = json.loads((folder / "cells" / "block" / "seed-0" / "report.json").read_text())
    assert cells["block"]["report"]["clients"] == own["clients"]
    assert len(own["clients"]) == NUM_MEMBERS
    assert cells["projection"]["report"] is None
    assert {"curation", "training", "fine_tuning", "scoring"} <= set(cells["block"]["seconds"])
    assert found["is_dry_run"] is True


def test_cells_of_the_same_shadow_sets_share_them(folder: Path) -> None:
    assert len(list((folder / "stores").iterdir())) == 1
    assert len([path for path in (folder / "translators").iterdir() if (path / "config.json").is_file()]) == 2


def test_what_is_done_is_not_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("curate", "train", "evaluate"):
        monkeypatch.setattr(run, name, None)
    report = run_paper_study(study("table_4"), folder, cells=["block"], is_dry_run=True)
    assert not report.failures
    assert report.missing == ["projection"]


def test_another_study_is_not_mixed_in(folder: Path) -> None:
    with pytest.raises(OutputExistsError, match="holds another study"):
        run_paper_study(study("table_6"), folder, is_dry_run=True)
    with pytest.raises(OutputExistsError, match="or one of other settings"):
        run_paper_study(study("table_4"), folder)


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.curate

    def broken(arguments: run.CurationArguments) -> object:
        if arguments.samples_per_set == 4 and "aqua_rat" in str(arguments.corpora):
            raise StoreError("the disk is full")
        return whole(arguments)

    monkeypatch.setattr(run, "curate", broken)
    report = run_paper_study(study("table_1"), tmp_path / "s", cells=["aqua_rat", "gsm8k"], is_dry_run=True)
    assert report.failures == {"aqua_rat": "the disk is full"}
    assert "gsm8k" not in report.missing
    assert "Cell `aqua_rat` failed: the disk is full" in (tmp_path / "s" / "report.md").read_text()


@pytest.mark.slow
def test_seeds_are_pooled(tmp_path: Path) -> None:
    report = run_paper_study(study("table_1"), tmp_path / "s", cells=["gsm8k"], num_seeds=2, is_dry_run=True)
    (row,) = [row for row in report.cells if row.cell.name == "gsm8k"]
    assert row.report is not None
    assert [client.study_seed for client in row.report.clients] == [0, 1]
    assert len({client.seed for client in row.report.clients}) == 2


def test_numbers_that_are_not_positive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got 0 seeds and 1 processes"):
        run_paper_study(study("table_1"), tmp_path, num_seeds=0)
    with pytest.raises(ConfigurationError, match="got cell 'x'"):
        run_paper_study(study("table_1"), tmp_path, cells=["x"])
