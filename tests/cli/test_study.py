"""``gradtx study``: lists, plans, runs, refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gradtx_hf.studies.catalogue import STUDIES
from gradtx_hf.studies.cells import Cell
from gradtx_hf.studies.paper.definition import FOLDER, paper_study_names
from gradtx_hf.studies.runnable import WHOLE
from tests.cli.conftest import Finished
from tests.studies.toy import TOY


Gradtx = Callable[..., Finished]


@pytest.fixture(autouse=True)
def _toy_study(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Cell("broken", "Broken", training={"learning_rate": "fast"})
    monkeypatch.setitem(STUDIES, "toy", replace(TOY, cells=(broken, TOY.cells[0]), main="functional"))


def test_the_list_has_every_study_with_one_line(gradtx: Gradtx) -> None:
    finished = gradtx("study", "--list")

    assert finished.status == 0
    names = [line.split()[0] for line in finished.out.splitlines()]
    assert names == [*STUDIES, *WHOLE, *paper_study_names()]
    assert all(len(line.split()) >= 2 for line in finished.out.splitlines())


def test_a_plan_shows_the_cells_and_writes_nothing(gradtx: Gradtx, tmp_path: Path) -> None:
    finished = gradtx("study", "num_tasks", "--plan", "--output-dir", tmp_path / "out", "--cell", "rules_9", "rules_27")

    assert finished.status == 0
    assert "num_rules=9, runs_per_rule=48" in finished.out
    assert "rules_108" not in finished.out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_runs_cells_and_says_what_to_run_next_and_ends_with_status_1_where_one_fails(
    gradtx: Gradtx, tmp_path: Path
) -> None:
    folder = tmp_path / "out"

    finished = gradtx("study", "toy", "--cell", "functional", "--output-dir", folder, "--num-workers", 1)

    assert finished.status == 0
    assert finished.out.strip() == (folder / "report.md").read_text().strip()
    assert f"wrote {folder}/report.md" in finished.err
    assert f"next: gradtx study toy --output-dir {folder} --cell broken   # what is missing" in finished.err

    everything = gradtx("study", "toy", "--output-dir", folder, "--num-workers", 1, "--json")

    assert everything.error.startswith("1 of 2 cells failed, the first is 'broken': seed 0: ")
    assert [cell["status"] for cell in json.loads(everything.out)["cells"]] == ["failed", "done"]
    assert "- Broken: **failed**" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense", "--plan"), "got study 'nonsense', expected a YAML file or one of functional, partitions"),
        (
            ("toy", "--cell", "nonsense", "--plan"),
            "got cell 'nonsense' for study 'toy', expected one of study 'toy': broken, functional.",
        ),
        (("shift", "--cell", "x", "--plan"), "got cell 'x' for study 'shift', it has none."),
        (("none.yaml", "--plan"), "study 'none.yaml' is not there"),
        (("toy", "--seeds", "0", "--output-dir", "out"), "got seeds=0, expected at least 1"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(gradtx: Gradtx, arguments: tuple[str, ...], message: str) -> None:
    assert gradtx("study", *arguments).error.startswith(message)


def test_a_study_of_the_paper_is_planned_by_its_name_or_its_file(gradtx: Gradtx) -> None:
    named = gradtx("study", "table_6", "--plan")

    assert named.status == 0
    assert "| drop | DROP | Qwen/Qwen2.5-3B-Instruct | Qwen/Qwen2.5-7B-Instruct | 300 | 5 |" in named.out
    assert gradtx("study", FOLDER / "table_6.yaml", "--plan").out == named.out


@pytest.mark.slow
def test_a_dry_run_goes_the_whole_way(gradtx: Gradtx, tmp_path: Path) -> None:
    folder = tmp_path / "out"

    finished = gradtx("study", "table_1", "--dry-run", "--cell", "gsm8k", "--output-dir", folder)

    assert finished.status == 0
    assert "No number here means anything" in finished.out
    assert "next: gradtx study table_1" in finished.err
    assert "--dry-run --cell aqua_rat drop" in finished.err


@pytest.mark.parametrize("arguments", [(), ("toy",)])
def test_wrong_usage_has_status_2(gradtx: Gradtx, arguments: tuple[str, ...]) -> None:
    assert gradtx("study", *arguments).status == 2
