"""What a study of the paper is: a YAML file of what its cells share, what each changes, and what the paper reports.

    title, where, question, note    texts; ``where`` is the table or figure of the paper
    extends                         a file beside it, whose ``curate``, ``train`` and ``evaluate`` are the start
    shared                          changes of these for all cells
    cells                           name, label, ``paper`` (method to score, in percent), and changes for the cell alone

Each of ``curate``, ``train`` and ``evaluate`` holds arguments of the command of that name; ``pretrain``, if it is
there, values of ``TextPretraining``, whose models are then curated. A change of a mapping changes the keys that it
names; of anything else it takes the place. Folders and seeds are the study's to choose; ``adapters_from`` names an
earlier cell.
Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.yaml_files import load_yaml


FOLDER = Path(__file__).parent
COMMON = "common"
REQUIRED_STAGES = ("curate", "train", "evaluate")
STAGES = ("pretrain", *REQUIRED_STAGES)
STUDY_KEYS = ("title", "where", "question", "note", "extends", "shared", "cells")
CELL_KEYS = ("name", "label", "paper", *STAGES)
CHOSEN_BY_THE_STUDY = ("output_dir", "store", "translator", "seed")
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class PaperCell:
    """One row of a table.

    Attributes:
        name: Its name in commands and folders, in snake case.
        label: What tables call it.
        paper: Method name to the paper's score, in percent; empty where the paper gives none.
        curate: Arguments of the curation, but for folders and seed.
        train: Arguments of the training, but for folders and seed.
        evaluate: Arguments of the evaluation, but for folders and translator.
        pretrain: Values of the pretraining of its models; empty where the curation names them.
    """

    name: str
    label: str
    paper: Mapping[str, float]
    curate: Mapping[str, Any]
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    pretrain: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperStudy:
    """A table or figure of the paper.

    Attributes:
        name: The file's name without its end.
        title: What it varies, a few words.
        where: The paper's table or figure.
        question: What it asks, one sentence.
        cells: Its rows.
        note: What a reader must know to read the numbers.
    """

    name: str
    title: str
    where: str
    question: str
    cells: tuple[PaperCell, ...] = field(repr=False)
    note: str = ""

    def cell(self, name: str) -> PaperCell:
        """Return a cell by its name.

        Raises:
            ConfigurationError: If there is none.
        """
        found = {cell.name: cell for cell in self.cells}
        if name not in found:
            raise ConfigurationError(f"got cell '{name}', expected one of study '{self.name}': {', '.join(found)}.")
        return found[name]


def paper_study_names() -> list[str]:
    """Return the names of the studies that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != COMMON)


def load_paper_study(path: str | Path) -> PaperStudy:
    """Read a study's YAML file.

    Raises:
        MissingFileError: If it, or the file that it extends, is not there.
        ConfigurationError: If it is not complete, or a key is unknown.
    """
    path = Path(path)
    values = _read(path)
    _require_keys(values, STUDY_KEYS, required=("title", "where", "question", "cells"), label=f"study '{path}'")
    start: Mapping[str, Any] = {}
    if "extends" in values:
        start = _read(path.parent / values["extends"])
        _require_keys(start, STAGES, required=(), label=f"'{values['extends']}'")
    shared = values.get("shared") or {}
    _require_keys(shared, STAGES, required=(), label=f"'shared' of study '{path}'")
    if not isinstance(values["cells"], list) or not values["cells"]:
        raise ConfigurationError(f"study '{path}' has no list of cells. Give at least one.")
    cells = tuple(_cell(cell, merged(start, shared), label=f"a cell of study '{path}'") for cell in values["cells"])
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"study '{path}' has two cells of one name. Name them apart.")
    return PaperStudy(
        name=path.stem,
        title=values["title"],
        where=values["where"],
        question=values["question"],
        cells=cells,
        note=values.get("note", ""),
    )


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with changes: of a mapping those of its keys, of anything else it as a whole."""
    result = dict(values)
    for name, change in changes.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(change, Mapping)
        result[name] = merged(before, change) if both else change  # type: ignore[arg-type]
    return result


def _cell(values: Any, start: Mapping[str, Any], *, label: str) -> PaperCell:  # noqa: ANN401 - any YAML value
    _require_keys(values, CELL_KEYS, required=("name", "label"), label=label)
    if not NAME.fullmatch(str(values["name"])):
        raise ConfigurationError(f"got name {values['name']!r} for {label}, expected snake case.")
    stages = merged(start, {name: values[name] for name in STAGES if name in values})
    for stage in REQUIRED_STAGES:
        if not stages.get(stage):
            raise ConfigurationError(f"{label}, '{values['name']}', has nothing for {stage}. Add its arguments.")
        chosen = [name for name in CHOSEN_BY_THE_STUDY if name in stages[stage]]
        if chosen:
            raise ConfigurationError(f"{label}, '{values['name']}', sets {chosen[0]} of {stage}. Leave it out.")
    return PaperCell(str(values["name"]), str(values["label"]), values.get("paper") or {}, **stages)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise MissingFileError(
            f"study '{path}' is not there. Give a YAML file, or a name that gradtx study --list shows."
        )
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"study '{path}' is no YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"study '{path}' holds no keys and values. Look at {FOLDER / 'table_1.yaml'}.")
    return values


def _require_keys(values: Any, known: tuple[str, ...], *, required: tuple[str, ...], label: str) -> None:  # noqa: ANN401
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{label} holds no keys and values, got {values!r}.")
    for name in values:
        if name not in known:
            raise ConfigurationError(f"got unknown key '{name}' in {label}, expected any of {', '.join(known)}.")
    for name in required:
        if not values.get(name):
            raise ConfigurationError(f"{label} lacks '{name}'. Add it.")
