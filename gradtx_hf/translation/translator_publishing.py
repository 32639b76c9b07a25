"""Publish a translator: model, both initial adapters, input distance, training arguments, results, and a card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.hub import Destination, Published, RepoKind, publish
from gradtx_hf.hub.cards import with_base_model
from gradtx_hf.hub.wording import without_private
from gradtx_hf.lora.adapter_config import CONFIG_FILE as ADAPTER_CONFIG_FILE
from gradtx_hf.model.weights import CONFIG_FILE
from gradtx_hf.output import write_json
from gradtx_hf.translation.distance_file import INPUT_DISTANCE_FILE
from gradtx_hf.translation.loading import PARTS_FOLDER, SOURCE_INIT, TARGET_INIT
from gradtx_hf.translation.records import RESULTS_FILE, TRAINING_FILE, load_record
from gradtx_hf.translation.translator_card import TranslatorFacts, translator_card


TRANSLATOR = RepoKind(
    "translator",
    (
        CONFIG_FILE,
        "model*.safetensors",
        "model.safetensors.index.json",
        INPUT_DISTANCE_FILE,
        TRAINING_FILE,
        RESULTS_FILE,
        f"{SOURCE_INIT}/*",
        f"{TARGET_INIT}/*",
        f"{PARTS_FOLDER}/*",
    ),
)


def publish_translator(
    save: Callable[[Path], None],
    facts: TranslatorFacts,
    destination: Destination,
    *,
    base_models: Mapping[str, str] | None = None,
    commit_message: str | None = None,
) -> Published:
    """Publish a translator as one commit.

    Args:
        save: Writes the translator's folder.
        facts: What its card is made from.
        destination: Where.
        base_models: Ids on the Hub, ``owner/name[@revision]``, for base models named by a local folder.
        commit_message: First line of the commit.

    Raises:
        ConfigurationError: If others could not find a base model.
        DataError: If the report is none.
        HubError: If the repository cannot be written; see ``hub.publish``.
    """
    renamed = dict(base_models or {})
    known = {init.base_model for init in (facts.source_init, facts.target_init)}
    unknown = sorted(set(renamed) - known)
    if unknown:
        raise ConfigurationError(f"got base model '{unknown[0]}', expected one of {', '.join(sorted(known))}.")
    facts = replace(
        facts,
        source_init=with_base_model(facts.source_init, renamed.get(facts.source_init.base_model)),
        target_init=with_base_model(facts.target_init, renamed.get(facts.target_init.base_model)),
        training=without_private(facts.training),
        report=without_private(facts.report),
    )
    card = translator_card(facts)
    with tempfile.TemporaryDirectory(prefix="gradtx-") as parent:
        folder = Path(parent) / "translator"
        save(folder)
        for path in folder.rglob("*.json"):
            _make_public(path, renamed)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if facts.report is not None:
            write_json(folder / RESULTS_FILE, facts.report)
            files[RESULTS_FILE] = folder / RESULTS_FILE
        return publish(
            files,
            destination,
            kind=TRANSLATOR,
            card=card,
            commit_message=commit_message or "Translator of gradtx_hf",
        )


def read_report(report: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the values of a report.json: those given, or those of a file or of the one in a folder.

    Raises:
        MissingFileError: If the file is not there.
        LayoutError: If it is damaged.
    """
    if report is None or isinstance(report, Mapping):
        return report
    path = Path(report) / RESULTS_FILE if Path(report).is_dir() else Path(report)
    values = load_record(path.parent, path.name, name=str(path.parent))
    if values is None:
        raise MissingFileError(f"there is no report '{path}'. Give the report.json of gradtx evaluate, or its folder.")
    return values


def _make_public(path: Path, renamed: Mapping[str, str]) -> None:
    """Give base models the names by which others find them, and leave out what is of this machine."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    values = without_private(saved)
    keys = {
        CONFIG_FILE: (("source_base_model", "source_base_revision"), ("target_base_model", "target_base_revision")),
        ADAPTER_CONFIG_FILE: (("base_model_name_or_path", "revision"),),
    }.get(path.name, ())
    for name_key, revision_key in keys:
        if saved.get(name_key) in renamed:
            name, _, revision = renamed[saved[name_key]].partition("@")
            values |= {name_key: name, revision_key: revision or None}
    if values != saved:
        write_json(path, values)
