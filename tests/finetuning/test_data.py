from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gradtx_hf.errors import ConfigurationError, DataError, MissingFileError
from gradtx_hf.finetuning import DataSource, load_examples
from gradtx_hf.finetuning.data import cut_text


ROWS = [{"prompt": f"p{i}", "completion": f"c{i}", "question": {"stem": f"s{i}", "id": i}} for i in range(10)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def load(path: str, **options: Any) -> Dataset:  # noqa: ANN401 - the fields of DataSource
    return load_examples(DataSource(path=path, **options))


def test_columns_are_found_by_their_names(path: str) -> None:
    examples = load(path)

    assert examples.column_names == ["prompt", "completion"]
    assert list(examples["completion"]) == [row["completion"] for row in ROWS]


def test_dotted_path_reaches_nested_values_and_numbers_become_text(path: str) -> None:
    examples = load(path, prompt_column="question.stem", completion_column="question.id")

    assert examples[3] == {"prompt": "s3", "completion": "3"}


def test_split_may_be_sliced(path: str) -> None:
    assert len(load(path, split="train[:50%]")) == 5


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_other_formats_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    data = Dataset.from_list([{"text": "a b"}, {"text": "c"}])
    file = str(tmp_path / f"rows{suffix}")
    {".json": data.to_json, ".csv": data.to_csv, ".parquet": data.to_parquet}[suffix](file)

    assert load(file).to_dict() == {"text": ["a b", "c"]}


def test_folder_of_files_is_one_data_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.jsonl", ROWS[:2])

    assert len(load(str(tmp_path))) == 4


def test_text_file_is_a_text_per_line_or_cut_as_one(tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    file.write_text("one two\nthree\n\nfour five six\n")

    assert load(str(file), chunk_characters=13)["text"][:] == ["one two", "three", "four five six"]
    assert load(str(file))["text"][:] == ["one two", "three", "four five six"]


def test_pieces_respect_the_limit_and_lose_nothing_but_white_space() -> None:
    text = "\n".join(f"line {i} " + "word " * (i % 7) + "x" * (i % 30) for i in range(60))

    pieces = cut_text(text, 40)

    assert max(map(len, pieces)) <= 40
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_no_copy_of_local_data_is_left_in_a_cache(path: str) -> None:
    assert load(path).cache_files == []


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.jsonl' is not there"):
        load(str(tmp_path / "none.jsonl"))


def test_empty_file_and_empty_slice_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty.csv").write_text("")

    with pytest.raises(DataError, match=r"empty\.csv' is empty"):
        load(str(tmp_path / "empty.csv"))
    with pytest.raises(DataError, match="no data"):
        load(path, split="train[:0]")


def test_missing_column_is_named_with_those_there_are(path: str) -> None:
    with pytest.raises(DataError, match=r"no column 'body'\. It has: .*question\.stem"):
        load(path, text_column="body")
    with pytest.raises(DataError, match="none of the columns"):
        load(write_rows(Path(path).with_name("x.jsonl"), [{"body": "a"}]))


def test_unknown_split_is_refused_in_one_line(path: str) -> None:
    with pytest.raises(DataError, match="cannot be read") as raised:
        load(path, split="test")

    assert "\n" not in str(raised.value)


def test_rows_without_a_value_are_counted(path: str) -> None:
    with pytest.raises(DataError, match=r"column 'text' of data .* has no value in 1 of 2 rows"):
        load(write_rows(Path(path).with_name("x.jsonl"), [{"text": "a"}, {"text": None}]))


def test_broken_json_and_unknown_suffix_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "rows.tsv").write_text("a\tb\n")

    with pytest.raises(DataError, match=r"bad\.jsonl' cannot be read"):
        load(str(tmp_path / "bad.jsonl"))
    with pytest.raises(DataError, match=r"is a \.tsv file, expected one of \.jsonl"):
        load(str(tmp_path / "rows.tsv"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "d", "colour": 1}, "unknown data key 'colour'"),
        ({"text_column": "t"}, "lacks 'path'"),
        ({"path": "d", "prompt_column": "p"}, "lacks completion_column"),
        ({"path": "d", "text_column": "t", "messages_column": "m"}, "names both messages_column and text_column"),
        ({"path": "d", "chunk_characters": 0}, "chunk_characters=0"),
    ],
)
def test_source_that_contradicts_itself_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DataSource.from_dict(values)


def test_a_number_may_be_text() -> None:
    assert DataSource.from_dict({"path": "a.txt", "chunk_characters": "128"}).chunk_characters == 128
    with pytest.raises(ConfigurationError, match=r"got chunk_characters='1\.5' for a data source"):
        DataSource.from_dict({"path": "a.txt", "chunk_characters": "1.5"})
