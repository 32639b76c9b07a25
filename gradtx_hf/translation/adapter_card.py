"""The card of an adapter: one that was translated, or one that a client trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradtx_hf.hub.cards import LIBRARY, ModelReference, installed_versions, layout_table, peft_code, versions_text
from gradtx_hf.hub.markdown import code, markdown_table, plain, render_template
from gradtx_hf.hub.readme import PROVENANCE_KEY, Card
from gradtx_hf.lora import Adapter
from gradtx_hf.playground import TRANSLATOR_NAME
from gradtx_hf.translation.records import privacy_text


TRANSLATED_TAG = "gradtx-translated"
LOCAL = "local"
"""What a published report calls what came from a folder of some machine."""


@dataclass(frozen=True)
class AdapterFacts:
    """All that an adapter's card is made from.

    Attributes:
        repo_id: Where it is published.
        revision: The branch; None for the default one.
        adapter: The adapter.
        report: What ``public_report`` returned, or None for an adapter that was not translated.
        privacy: What its maker states of its training, or None.
    """

    repo_id: str
    revision: str | None
    adapter: Adapter
    report: Mapping[str, Any] | None
    privacy: Mapping[str, Any] | None


def adapter_card(facts: AdapterFacts) -> Card:
    """Return the card.

    Raises:
        ConfigurationError: If others could not find the base model.
    """
    base = ModelReference.of(facts.adapter)
    values = {
        "title": plain(facts.repo_id.partition("/")[2]),
        "target_model": code(base.name),
        "load_code": peft_code(base, facts.repo_id, revision=facts.revision),
        "layout": layout_table({"adapter": facts.adapter}),
        "privacy": _privacy(facts),
        "versions": f"Published with {versions_text(installed_versions())}.",
    }
    metadata: dict[str, Any] = {
        "library_name": "peft",
        "tags": [LIBRARY, "lora"],
        "base_model": base.name,
        "base_model_relation": "adapter",
        PROVENANCE_KEY: {"base_model": base.to_json(), "fingerprint": facts.adapter.layout.fingerprint},
    }
    if facts.adapter.config.task_type == "CAUSAL_LM":
        metadata["pipeline_tag"] = "text-generation"
    if facts.report is None:
        return Card(metadata, render_template("adapter", values))
    report = facts.report
    sources = report["adapters"]
    metadata["tags"].insert(1, TRANSLATED_TAG)
    metadata[PROVENANCE_KEY] |= {
        "translator": _reference(report["translator"]),
        "source_adapters": [_reference(source) for source in sources],
        "source_base_model": report["source_base_model"],
    } | ({"aggregation": report["aggregation"]} if len(sources) > 1 else {})
    values |= {
        "num_sources": "an adapter" if len(sources) == 1 else f"{len(sources)} adapters",
        "source_model": code(report["source_base_model"]),
        "provenance": _provenance(base, report),
        "sources": _sources(report),
        "warnings": "\n".join(f"> **Warning.** {plain(line)}" for line in report["warnings"]),
        "versions": f"Translated with {versions_text(report['versions'])}.",
    }
    return Card(metadata, render_template("translated-adapter", values))


def public_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a translation's report without names of this machine.

    What came from the Hub keeps its name; an adapter or translator of a folder is called ``local adapter 1`` and so on.
    Numbers, warnings and versions stay.

    Args:
        report: The report of a ``TranslatedAdapter``.
    """
    names: dict[str, str] = {}
    skipped = report.get("skipped", [])
    for number, source in enumerate([*report["adapters"], *skipped], start=1):
        if source.get("commit") is None:
            names[source["name"]] = f"{LOCAL} adapter {number}"
    translator = report["translator"]
    if translator["commit"] is None and translator["name"] != TRANSLATOR_NAME:
        names[translator["name"]] = f"{LOCAL} translator"

    def renamed(line: str) -> str:
        for name in sorted(names, key=len, reverse=True):
            line = line.replace(f"'{name}'", f"'{names[name]}'")
        return line

    return {
        **report,
        "translator": {**translator, "name": names.get(translator["name"], translator["name"])},
        "adapters": [
            source if source.get("commit") is not None else {**source, "name": names[source["name"]]}
            for source in report["adapters"]
        ],
        "skipped": [{"name": names[entry["name"]], "reason": renamed(entry["reason"])} for entry in skipped],
        "warnings": [renamed(line) for line in report["warnings"]],
    }


def _reference(origin: Mapping[str, Any]) -> str:
    """Return ``owner/name@commit``, or the name alone of what has no commit."""
    return f"{origin['name']}@{origin['commit']}" if origin["commit"] else str(origin["name"])


def _origin(origin: Mapping[str, Any]) -> str:
    if origin["commit"]:
        return f"{code(origin['name'])} at commit {code(origin['commit'])}"
    return f"{code(origin['name'])} (not from the Hub, so without a commit)"


def _provenance(base: ModelReference, report: Mapping[str, Any]) -> str:
    lines = [f"Large model: {base.to_markdown()}", f"Translator: {_origin(report['translator'])}"]
    lines += [f"Source adapter: {_origin(source)}" for source in report["adapters"]]
    if len(report["adapters"]) > 1:
        settings = report.get("aggregation_settings")
        is_after = isinstance(settings, Mapping) and settings.get("merge") == "after"
        when = "after translation" if is_after else "before translation"
        lines.append(f"Aggregated by {code(report['aggregation'])} {when}")
    return "\n".join(f"- {line}" for line in lines)


def _sources(report: Mapping[str, Any]) -> str:
    heads = (
        "weight",
        "share",
        "update_norm",
        "cosine_to_aggregate",
        "distance_to_others",
        "product_error",
        "start_distance",
        "input_distance",
        "input_distance_limit",
    )
    rows = [[code(source["name"]), *(_cell(source.get(key)) for key in heads)] for source in report["adapters"]]
    return markdown_table(["source adapter", *(plain(head.replace("_", " ")) for head in heads)], rows)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def _privacy(facts: AdapterFacts) -> str:
    lines = []
    if facts.privacy is not None:
        lines.append(
            f"The maker of this adapter states differential privacy of its training: {_statement(facts.privacy)}."
        )
    for source in (facts.report or {}).get("adapters", []):
        if source.get("privacy"):
            lines.append(
                f"The maker of {code(source['name'])} states differential privacy of its training: "
                f"{_statement(source['privacy'])}. Translation reads nothing else of the data: the same holds here."
            )
        else:
            lines.append(f"No differential privacy is stated for {code(source['name'])}.")
    if not lines:
        lines.append("No differential privacy is stated for its training.")
    return "\n".join(f"- {line}" for line in lines)


def _statement(privacy: Mapping[str, Any]) -> str:
    """Return what a stranger states of a training's privacy, as text that cannot leave its place."""
    return plain(privacy_text(privacy))
