"""Any data set to examples: local files and folders, or data sets of the Hub, through ``datasets.load_dataset``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, List, ReadInstruction, Value, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from gradtx_hf.errors import ConfigurationError, DataError, MissingFileError
from gradtx_hf.finetuning.task_data import task_examples
from gradtx_hf.tasks import Task, get_task
from gradtx_hf.tasks.records import read_records


BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""File suffix to the builder of ``datasets`` that reads it."""


@dataclass(frozen=True)
class DataSource:
    """Where examples come from and which columns hold them.

    Give ``task``, or ``prompt_column`` and ``completion_column``, or ``messages_column``, or ``text_column``; with none
    of them, the first of these columns that the data has under their plain names. A column may be a dotted path into
    nested values, such as ``question.stem``.

    Attributes:
        path: A .jsonl, .json, .csv, .parquet or .txt file, a local folder, or the id of a data set of the Hub.
        name: Configuration of a data set of the Hub.
        split: Split, or a slice of one, such as ``train[:50%]``.
        revision: Revision of a data set of the Hub.
        text_column: Column of plain texts.
        prompt_column: Column of prompts.
        completion_column: Column of completions; only they are learned.
        messages_column: Column of chats: lists of ``role`` and ``content``.
        chunk_characters: Cut every text into pieces of at most so many characters, at the ends of lines where it can
            be; a .txt file is cut as one text. Source and target then see the same pieces whatever their tokenizers.
            None: a text as it is; a .txt file is one text per line, blank lines left out.
        task: Name of a task (``gradtx_hf.tasks``), which makes prompts and completions of the rows and scores
            answers. In a configuration, ``path`` and ``name`` are then by default those of its data set on the Hub.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    text_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    messages_column: str | None = None
    chunk_characters: int | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        """Check that the columns fit together.

        Raises:
            ConfigurationError: If columns of two kinds are named, or half of a pair, or a task and a column or a
                size, or an unknown task, or a size is not positive.
        """
        if (self.prompt_column is None) != (self.completion_column is None):
            lacking = "completion_column" if self.completion_column is None else "prompt_column"
            raise ConfigurationError(f"data '{self.path}' lacks {lacking}: a prompt and its completion go together.")
        named = [name for name in ("prompt_column", "messages_column", "text_column") if getattr(self, name)]
        if len(named) > 1:
            raise ConfigurationError(f"data '{self.path}' names both {named[0]} and {named[1]}. Name one of them.")
        if self.task is not None:
            get_task(self.task)
            if named or self.chunk_characters is not None:
                raise ConfigurationError(
                    f"data '{self.path}' names the task {self.task} and {named[0] if named else 'chunk_characters'}. "
                    "The task makes the prompts and completions: leave the other out."
                )
        if self.chunk_characters is not None and self.chunk_characters < 1:
            raise ConfigurationError(f"got chunk_characters={self.chunk_characters}, expected at least 1.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSource:
        """Build a source from configuration values; a number may be text.

        Raises:
            ConfigurationError: If a key is unknown, ``path`` is missing, or a value is of another type.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigurationError(
                f"got unknown data key '{unknown[0]}', expected any of {', '.join(sorted(known))}."
            )
        if values.get("task") and not values.get("path"):
            task = get_task(values["task"])
            values = {"name": task.config, **values, "path": task.data_set}
        if not values.get("path"):
            raise ConfigurationError("a data source lacks 'path'. Give a file, a folder, or the id of a data set.")
        if str(values.get("chunk_characters")).isdecimal():
            values = {**values, "chunk_characters": int(values["chunk_characters"])}
        for name, value in values.items():
            expected = int if name == "chunk_characters" else str
            if value is not None and (not isinstance(value, expected) or isinstance(value, bool)):
                word = "a whole number" if expected is int else "text"
                raise ConfigurationError(f"got {name}={value!r} for a data source, expected {word}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all values, for configuration files and plans."""
        return asdict(self)

    @property
    def local_path(self) -> Path | None:
        """The file or folder, or None for a data set of the Hub."""
        path = Path(self.path).expanduser()
        looks_local = path.suffix in BUILDERS or path.is_absolute() or self.path.startswith((".", "~"))
        return path if looks_local or path.exists() else None


def load_examples(source: DataSource) -> Dataset:
    """Load a data set's examples.

    A local file or folder is read into memory; no copy of it is left in a cache.

    Args:
        source: Where the examples come from.

    Returns:
        Columns ``prompt`` and ``completion``, or ``messages``, or ``text``. Prompts and completions may be chats, as
        those of a task are; a task adds its ``references`` and its name as ``task``.

    Raises:
        MissingFileError: If the file, folder or data set is not there.
        DataError: If it cannot be read, is empty, lacks a column, or has rows without a value.
    """
    if source.task is not None:
        return _load_task(source, get_task(source.task))
    rows = _load_rows(source)
    if len(rows) == 0:
        raise DataError(f"data '{source.path}' has no rows in split '{source.split}'. Give data with at least one.")
    if any(isinstance(feature, dict) for feature in rows.features.values()):
        rows = rows.flatten()
    columns = _choose_columns(source, rows.column_names)
    examples = rows.select_columns(list(columns.values())).rename_columns({v: k for k, v in columns.items() if k != v})
    for name, column in columns.items():
        examples = _check_column(examples, name, f"column '{column}' of data '{source.path}'")
    if source.chunk_characters is not None:
        return _cut_texts(examples, source, source.chunk_characters)
    return _without_blank_lines(examples, source) if _is_text_file(source) else examples


def cut_text(text: str, max_characters: int) -> list[str]:
    """Cut a text into pieces of at most so many characters, after line ends where it can be, else after spaces.

    Returns:
        The pieces, stripped of surrounding white space, none of them empty.
    """
    pieces, start = [], 0
    while start < len(text):
        end = start + max_characters
        if end < len(text):
            for separator in ("\n", " "):
                found = text.rfind(separator, start, end)
                if found > start:
                    end = found + 1
                    break
        pieces.append(text[start:end].strip())
        start = end
    return [piece for piece in pieces if piece]


@contextmanager
def without_bars() -> Iterator[None]:
    """Switch the progress bars of ``datasets`` off for a while."""
    are_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if are_shown:
            datasets.enable_progress_bars()


def _load_rows(source: DataSource) -> Dataset:
    local = source.local_path
    if local is None:
        with _readable(source):
            return load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    if not local.exists():
        raise MissingFileError(f"data '{source.path}' is not there. Give a file, a folder, or the id of a data set.")
    with tempfile.TemporaryDirectory(prefix="gradtx-") as cache, _readable(source), without_bars(), _uncounted():
        options = {"split": source.split, "cache_dir": cache, "keep_in_memory": True}
        if local.is_dir():
            return load_dataset(str(local), source.name, **options)
        if local.suffix not in BUILDERS:
            raise DataError(f"data '{source.path}' is a {local.suffix} file, expected one of {', '.join(BUILDERS)}.")
        if not local.read_bytes()[:1]:
            raise DataError(f"data '{source.path}' is empty. Give data with at least one row.")
        return load_dataset(BUILDERS[local.suffix], data_files=str(local), **options)


def _load_task(source: DataSource, task: Task) -> Dataset:
    """Load raw rows, of the Hub's schema or of an original file, as a task's examples."""
    local = source.local_path
    if local is None or local.is_dir():
        rows: Iterable[Mapping[str, Any]] = _load_rows(source)
    else:
        records = read_records(local)
        with _readable(source):
            parts = ReadInstruction.from_spec(source.split).to_absolute({"train": len(records)})
        rows = [record for part in parts for record in records[part.from_ : part.to]]
    return task_examples(task, rows, label=f"data '{source.path}' in split '{source.split}'")


@contextmanager
def _uncounted() -> Iterator[None]:
    """Keep ``datasets`` from telling the Hub of every local file that it opens: what is private makes no request."""
    are_counted = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = are_counted


@contextmanager
def _readable(source: DataSource) -> Iterator[None]:
    """Turn what ``datasets`` raises into one line."""
    try:
        yield
    except DatasetNotFoundError as error:
        raise MissingFileError(
            f"data '{source.path}' is neither a file here nor a data set of the Hub that can be read: check the name, "
            "the revision, and that you are logged in."
        ) from error
    except (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise MissingFileError(f"data '{source.path}' could not be fetched from the Hub: {_line(error)}") from error
    except DatasetGenerationError as error:
        raise DataError(f"data '{source.path}' cannot be read: {_line(error.__cause__ or error)}") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"data '{source.path}' cannot be read: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _choose_columns(source: DataSource, there: list[str]) -> dict[str, str]:
    """Return what each column of the examples is called in the data."""
    kinds = [("prompt", "completion"), ("messages",), ("text",)]
    named = {name: getattr(source, f"{name}_column") for kind in kinds for name in kind}
    chosen = {name: column for name, column in named.items() if column is not None}
    for column in chosen.values():
        if column not in there:
            raise DataError(f"data '{source.path}' has no column '{column}'. It has: {', '.join(there)}.")
    if chosen:
        return chosen
    for kind in kinds:
        if set(kind) <= set(there):
            return {name: name for name in kind}
    raise DataError(
        f"data '{source.path}' has none of the columns prompt and completion, messages, or text. It has: "
        f"{', '.join(there)}. Name one with text_column, or prompt_column and completion_column, or messages_column."
    )


def _check_column(examples: Dataset, name: str, label: str) -> Dataset:
    num_empty = examples.data.column(name).null_count
    if num_empty:
        raise DataError(f"{label} has no value in {num_empty} of {len(examples)} rows. Remove these rows.")
    feature = examples.features[name]
    if name == "messages" or (name in ("prompt", "completion") and isinstance(feature, List)):
        first = examples[0][name]
        if not isinstance(first, list) or not all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in first):
            raise DataError(f"{label} holds no chats, expected lists of messages with role and content.")
        return examples
    if not isinstance(feature, Value) or feature.dtype.startswith(("binary", "large_binary")):
        raise DataError(f"{label} holds no text (its type is {feature}). Name a column of texts.")
    return examples if "string" in feature.dtype else examples.cast_column(name, Value("string"))


def _cut_texts(examples: Dataset, source: DataSource, max_characters: int) -> Dataset:
    if examples.column_names != ["text"]:
        raise ConfigurationError(f"data '{source.path}' has chunk_characters, which only texts can be cut into.")
    texts = list(examples["text"])
    if _is_text_file(source):
        texts = ["\n".join(texts)]
    return _texts([piece for text in texts for piece in cut_text(text, max_characters)], source)


def _without_blank_lines(examples: Dataset, source: DataSource) -> Dataset:
    return _texts([text for text in examples["text"] if text.strip()], source)


def _texts(texts: list[str], source: DataSource) -> Dataset:
    if not texts:
        raise DataError(f"data '{source.path}' holds white space only. Give data with at least one text.")
    return Dataset.from_dict({"text": texts})


def _is_text_file(source: DataSource) -> bool:
    return source.local_path is not None and source.local_path.suffix == ".txt"
