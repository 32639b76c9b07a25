"""The original files of data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradtx_hf.errors import DataError, MissingFileError
from gradtx_hf.tasks.records import read_records


ROWS = [{"a": 1, "b": {"c": 2}}, {"a": 3, "b": {"c": 4}}]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\n" + "\n\n".join(map(json.dumps, ROWS)) + "\n",
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"first": ROWS[0], "second": ROWS[1]}),
        json.dumps({"first": ROWS[0], "second": ROWS[1]}, indent=2),
    ],
)
def test_lines_lists_and_objects_by_id_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert read_records(path) == ROWS


def test_a_file_of_one_line_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    assert read_records(path) == ROWS[:1]


@pytest.mark.parametrize("text", ["{", '{"a": 1}\n{', "not json", ""])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not JSON"):
        read_records(path)


@pytest.mark.parametrize("text", ["3", '["a"]', '[{"a": 1}, 2]'])
def test_what_is_no_row_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match="holds no rows"):
        read_records(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        read_records(tmp_path / "rows.json")
