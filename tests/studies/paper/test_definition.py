"""The studies of the paper as YAML: all of them can be run as they are, and a broken one is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gradtx_hf.curation import CurationArguments
from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.methods import METHODS
from gradtx_hf.studies.paper.definition import FOLDER, load_paper_study, merged, paper_study_names
from gradtx_hf.training.run import TranslatorArguments


RIVAL_METHODS = {"w2s", "confidence", "vissup"}


def test_every_table_and_figure_is_there() -> None:
    assert paper_study_names() == [
        "figure_5",
        "figure_8",
        "figure_dp",
        "table_1",
        "table_2",
        "table_4",
        "table_6",
        "table_7",
        "table_dirichlet",
        "table_time",
    ]


@pytest.mark.parametrize("name", paper_study_names())
def test_the_commands_take_every_cell(name: str, tmp_path: Path) -> None:
    study = load_paper_study(FOLDER / f"{name}.yaml")
    for cell in study.cells:
        folders = {"store": str(tmp_path), "output_dir": str(tmp_path)}
        CurationArguments(**cell.curate, output_dir=str(tmp_path))
        TranslatorArguments(**{**cell.train, "bf16": False}, **folders)
        arguments = EvaluationArguments(**cell.evaluate, **folders, translator="x")
        assert all(client.train for client in arguments.client_data())
        assert set(cell.paper) <= set(METHODS) | RIVAL_METHODS
        assert all(0 < score <= 100 for score in cell.paper.values())


def test_public_and_private_rows_are_apart() -> None:
    for name in paper_study_names():
        for cell in load_paper_study(FOLDER / f"{name}.yaml").cells:
            private = str(cell.evaluate["clients"])
            for corpus in cell.curate["corpora"]:
                first = int(corpus["split"].removeprefix("train[").removesuffix("%:]"))
                assert f"'task': '{corpus['task']}', 'split': 'train[{first}" not in private
                assert f"train[:{first + 1}" not in private


def test_changes_reach_into_mappings_and_replace_the_rest() -> None:
    start = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merged(start, {"a": {"c": [5]}, "e": {}}) == {"a": {"b": 1, "c": [5]}, "d": 3, "e": {}}
    assert start == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


def values(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any YAML value
    stages = {"curate": {"x": 1}, "train": {"x": 1}, "evaluate": {"x": 1}}
    cell = {"name": "one", "label": "One", **stages}
    return {"title": "T", "where": "W", "question": "Q", "cells": [cell], **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"title": ""}, "lacks 'title'"),
        ({"cells": {}}, "lacks 'cells'"),
        ({"cells": "x"}, "no list of cells"),
        ({"cells": [{"name": "one"}]}, "lacks 'label'"),
        ({"cells": [{"name": "Not Snake", "label": "x"}]}, "expected snake case"),
        ({"cells": [{"name": "one", "label": "x"}]}, "has nothing for curate"),
        ({"shared": {"fit": {}}}, "unknown key 'fit'"),
        ({"shared": {"train": {"seed": 3}}}, "sets seed of train"),
        ({"cells": [*values()["cells"], *values()["cells"]]}, "two cells of one name"),
        ({"extends": "other.yaml"}, "other.yaml' is not there"),
    ],
)
def test_broken_studies_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values(**changes)))
    with pytest.raises((ConfigurationError, MissingFileError), match=message):
        load_paper_study(path)


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("[1, 2")
    with pytest.raises(ConfigurationError, match="is no YAML"):
        load_paper_study(path)
    path.write_text("3")
    with pytest.raises(ConfigurationError, match="holds no keys and values"):
        load_paper_study(path)
    with pytest.raises(MissingFileError, match="is not there"):
        load_paper_study(tmp_path / "none.yaml")


def test_a_cell_is_found_by_its_name() -> None:
    study = load_paper_study(FOLDER / "table_4.yaml")
    assert study.cell("reversed").train["partition"] == "reversed"
    with pytest.raises(ConfigurationError, match="got cell 'x', expected one of study 'table_4': block"):
        study.cell("x")
