"""The card of a translator, from what its folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradtx_hf.hub.cards import (
    LIBRARY,
    ModelReference,
    installed_versions,
    is_public_name,
    key_value_table,
    layout_table,
    license_metadata,
    peft_code,
    versions_text,
)
from gradtx_hf.hub.find import TRANSLATOR_TAG
from gradtx_hf.hub.markdown import code, markdown_table, plain, render_template
from gradtx_hf.hub.readme import PROVENANCE_KEY, Card
from gradtx_hf.hub.results import Results
from gradtx_hf.lora import Adapter


RECIPE_KEYS = (
    "objective",
    "partition",
    "decoding",
    "linear_rank",
    "has_transformer",
    "from_t5",
    "from_t5_revision",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "learning_rate",
    "lr_scheduler_type",
    "input_noise",
    "mixing",
    "standardise",
    "whiten",
    "num_target_runs",
    "examples_per_adapter",
    "parameter_weight",
    "validation_share",
    "seed",
)
"""Training arguments that a card shows; training.json has all."""
PART_KEYS = ("num_steps", "num_training_updates", "num_target_runs", "train_loss", "seconds")


@dataclass(frozen=True)
class TranslatorFacts:
    """All that a translator's card is made from.

    Attributes:
        repo_id: Where it is published.
        revision: The branch; None for the default one.
        source_init: The adapter that clients start from.
        target_init: The adapter that updates are added to.
        parts: Names of its parts; one empty name where it is whole.
        start_distance_limit: Largest distance to the start that is accepted, or None.
        input_distance_limit: Distance beyond which an adapter is off the map, or None.
        training: Values of training.json, or None.
        report: Values of report.json, or None.
        license_id: License that its publisher gives, as the Hub names it, or None.
    """

    repo_id: str
    revision: str | None
    source_init: Adapter
    target_init: Adapter
    parts: tuple[str, ...]
    start_distance_limit: float | None
    input_distance_limit: float | None
    training: Mapping[str, Any] | None
    report: Mapping[str, Any] | None
    license_id: str | None = None


def translator_card(facts: TranslatorFacts) -> Card:
    """Return the card.

    Raises:
        ConfigurationError: If others could not find a base model, or the license cannot be one.
        DataError: If the report is none.
    """
    source, target = ModelReference.of(facts.source_init), ModelReference.of(facts.target_init)
    results = None if facts.report is None else Results.read(facts.report)
    data = _data(facts.training)
    body = render_template(
        "translator",
        {
            "title": plain(facts.repo_id.partition("/")[2]),
            "source_model": code(source.name),
            "target_model": code(target.name),
            "client_code": peft_code(
                source, facts.repo_id, revision=facts.revision, subfolder="source_init", is_trainable=True
            ),
            "translate_code": _translate_code(facts),
            "translate_command": _translate_command(facts),
            "load_code": peft_code(target, "translated_adapter"),
            "layout": layout_table({"source": facts.source_init, "target": facts.target_init}),
            "files": _files(facts),
            "recipe": _recipe(facts.training),
            "parts": _parts(facts.training),
            "data": _data_table(facts.training, data),
            "results": results.to_markdown() if results else "",
            "limits": _limits(facts),
            "provenance": _provenance(source, target, data),
            "versions": _versions(facts),
        },
    )
    hub_data = [{"id": str(row["path"]), "revision": row.get("revision")} for row in data if _is_on_hub(row)]
    metadata: dict[str, Any] = {
        "library_name": LIBRARY,
        "tags": [LIBRARY, TRANSLATOR_TAG, "lora"],
        "base_model": [source.name, target.name],
        "base_model_relation": "adapter",
        **license_metadata(facts.license_id),
        PROVENANCE_KEY: {
            "source_base_model": source.to_json(),
            "target_base_model": target.to_json(),
            "source_fingerprint": facts.source_init.layout.fingerprint,
            "target_fingerprint": facts.target_init.layout.fingerprint,
        },
    }
    if hub_data:
        metadata["datasets"] = list(dict.fromkeys(row["id"] for row in hub_data))
        metadata[PROVENANCE_KEY]["datasets"] = hub_data
    if results is not None:
        metadata["model-index"] = results.to_model_index(facts.repo_id.partition("/")[2])
    return Card(metadata, body)


def _translate_code(facts: TranslatorFacts) -> str:
    revision = f", revision={json.dumps(facts.revision)}" if facts.revision else ""
    return (
        "from gradtx_hf import PeftTranslator\n\n"
        f"translator = PeftTranslator.from_pretrained({json.dumps(facts.repo_id)}{revision})\n"
        'translated = translator.translate("client_adapter")  # a folder, or a repository of the Hub; or a list\n'
        'translated.save_pretrained("translated_adapter")'
    )


def _translate_command(facts: TranslatorFacts) -> str:
    revision = f" --revision {facts.revision}" if facts.revision else ""
    return f"gradtx translate client_adapter --translator {facts.repo_id}{revision} --output-dir translated_adapter"


def _files(facts: TranslatorFacts) -> str:
    if facts.parts == ("",):
        return "`config.json` and `model.safetensors` are the model, `source_init/` and `target_init/` PEFT adapters."
    parts = ", ".join(code(f"parts/{part}/") for part in facts.parts)
    return f"The models are in {parts}, their outputs are merged; `source_init/` and `target_init/` are PEFT adapters."


def _recipe(training: Mapping[str, Any] | None) -> str:
    arguments = _mapping(_mapping(training).get("arguments"))
    if not arguments:
        return ""
    shown = {key: arguments.get(key) for key in RECIPE_KEYS}
    if isinstance(shown["max_steps"], int) and shown["max_steps"] > 0:
        shown["num_train_epochs"] = None  # which Trainer then does not read
    return f"{key_value_table(shown)}\n\n`training.json` has every argument and the log."


def _parts(training: Mapping[str, Any] | None) -> str:
    parts = {name: _mapping(part) for name, part in _mapping(_mapping(training).get("parts")).items()}
    if not parts:
        return ""
    metrics = {name: _mapping(part.get("metrics")) for name, part in parts.items()}
    shown = list(
        dict.fromkeys(
            key for found in metrics.values() for key in found if key.startswith("eval_") and key != "eval_runtime"
        )
    )
    rows = [
        [
            code(name),
            *(_cell(part.get(key)) for key in PART_KEYS),
            *(_cell(metrics[name].get(key)) for key in shown),
        ]
        for name, part in parts.items()
    ]
    return markdown_table(["part", *map(plain, PART_KEYS), *map(plain, shown)], rows)


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def _mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def _data(training: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    rows = _mapping(_mapping(training).get("store")).get("data")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _is_on_hub(row: Mapping[str, Any]) -> bool:
    return row.get("is_local") is False and is_public_name(str(row.get("path")))


def _data_table(training: Mapping[str, Any] | None, data: list[Mapping[str, Any]]) -> str:
    if not data:
        return ""
    store = _mapping(_mapping(training).get("store"))
    rows = [
        [
            plain(row.get("label", "-")),
            code(row.get("path")) if _is_on_hub(row) else "local files",
            code(row.get("split") or "-"),
            code(row.get("revision") or ("not recorded" if _is_on_hub(row) else "-")),
            _cell(row.get("num_rows")),
        ]
        for row in data
    ]
    counted = {key: store.get(key) for key in ("num_shadow_sets", "num_snapshots", "seed")}
    words = ", ".join(f"{key.replace('_', ' ')} {_cell(value)}" for key, value in counted.items() if value is not None)
    return f"{markdown_table(['name', 'data set', 'split', 'commit', 'rows'], rows)}\n\nShadow sets: {words}."


def _limits(facts: TranslatorFacts) -> str:
    lines = [
        "It reads adapters that were trained from `source_init/` alone"
        + (
            "; the distance to that start is not checked."
            if facts.start_distance_limit is None
            else f" (distance to it at most {facts.start_distance_limit:.2f}); others are refused."
        ),
        "It says when an adapter lies off the map, which is no proof that others lie on it."
        if facts.input_distance_limit is not None
        else "It has no calibrated input distance: an adapter off the map is translated without a warning.",
        "Nothing is known about tasks, languages and recipes other than those under Results."
        if facts.report is not None
        else "No evaluation was published with it: nothing is known about how well it translates.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _provenance(source: ModelReference, target: ModelReference, data: list[Mapping[str, Any]]) -> str:
    lines = [f"Small model: {source.to_markdown()}", f"Large model: {target.to_markdown()}"]
    for row in data:
        if _is_on_hub(row):
            commit = f"at commit {code(row['revision'])}" if row.get("revision") else "(commit not recorded)"
            lines.append(f"Data set: {code(row.get('path'))} {commit}")
    if not data:
        lines.append("Training data: not recorded.")
    return "\n".join(f"- {line}" for line in lines)


def _versions(facts: TranslatorFacts) -> str:
    trained = _mapping(_mapping(facts.training).get("versions"))
    lines = [f"Published with {versions_text(installed_versions())}."]
    if trained:
        lines.insert(0, f"Trained with {versions_text(trained)}.")
    return "\n".join(lines)
