"""The card of an adapter: one that was translated, one that was aggregated, or one that a client trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradtx_hf.hub.cards import (
    LIBRARY,
    ModelReference,
    installed_versions,
    layout_table,
    license_metadata,
    peft_code,
    versions_text,
)
from gradtx_hf.hub.markdown import code, markdown_table, plain, render_template
from gradtx_hf.hub.readme import PROVENANCE_KEY, Card
from gradtx_hf.lora import Adapter
from gradtx_hf.playground import TRANSLATOR_NAME
from gradtx_hf.translation.audit_record import audit_text
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
        aggregation: What ``public_report`` returned for a source adapter that was aggregated, or None.
        license_id: License that its publisher gives, as the Hub names it, or None.
        audit: What an audit of it found (see ``audit_record.load_audit``), or None.
    """

    repo_id: str
    revision: str | None
    adapter: Adapter
    report: Mapping[str, Any] | None
    privacy: Mapping[str, Any] | None
    aggregation: Mapping[str, Any] | None = None
    license_id: str | None = None
    audit: Mapping[str, Any] | None = None


def adapter_card(facts: AdapterFacts) -> Card:
    """Return the card.

    Raises:
        ConfigurationError: If others could not find the base model, or the license cannot be one.
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
    values |= dict.fromkeys(("provenance", "sources", "warnings"), "")
    metadata: dict[str, Any] = {
        "library_name": "peft",
        "tags": [LIBRARY, "lora"],
        "base_model": base.name,
        "base_model_relation": "adapter",
        **license_metadata(facts.license_id),
        PROVENANCE_KEY: {"base_model": base.to_json(), "fingerprint": facts.adapter.layout.fingerprint},
    }
    if facts.adapter.config.task_type == "CAUSAL_LM":
        metadata["pipeline_tag"] = "text-generation"
    made_from = facts.report or facts.aggregation
    if made_from is not None:
        sources = made_from["adapters"]
        metadata[PROVENANCE_KEY] |= {"source_adapters": [_reference(source) for source in sources]} | (
            {"aggregation": made_from["aggregation"]} if len(sources) > 1 else {}
        )
        values |= {
            "num_sources": "an adapter" if len(sources) == 1 else f"{len(sources)} adapters",
            "provenance": _provenance(base, made_from),
            "sources": _sources(made_from),
            "warnings": "\n".join(f"> **Warning.** {plain(line)}" for line in made_from["warnings"]),
        }
    if facts.report is None:
        values["origin"] = "as PEFT saved it" if made_from is None else f"aggregated from {values['num_sources']}"
        return Card(metadata, render_template("adapter", values))
    metadata["tags"].insert(1, TRANSLATED_TAG)
    metadata[PROVENANCE_KEY] |= {
        "translator": _reference(facts.report["translator"]),
        "source_base_model": facts.report["source_base_model"],
    }
    values |= {
        "source_model": code(facts.report["source_base_model"]),
        "versions": f"Translated with {versions_text(facts.report['versions'])}.",
    }
    return Card(metadata, render_template("translated-adapter", values))


def public_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a translation or an aggregation without names of this machine.

    What came from the Hub keeps its name; an adapter or translator of a folder is called ``local adapter 1`` and so on.
    Numbers, warnings and versions stay; the place of an aggregation's initial adapter does not.

    Args:
        report: The report of a ``TranslatedAdapter`` or an ``AggregatedAdapter``.
    """
    names: dict[str, str] = {}
    skipped = report.get("skipped", [])
    for number, source in enumerate([*report["adapters"], *skipped], start=1):
        if source.get("commit") is None:
            names[source["name"]] = f"{LOCAL} adapter {number}"
    translator = report.get("translator")
    if translator is not None and translator["commit"] is None and translator["name"] != TRANSLATOR_NAME:
        names[translator["name"]] = f"{LOCAL} translator"

    def renamed(line: str) -> str:
        for name in sorted(names, key=len, reverse=True):
            line = line.replace(f"'{name}'", f"'{names[name]}'")
        return line

    def public(origin: Mapping[str, Any]) -> dict[str, Any]:
        return {**origin, "name": origin["name"] if origin.get("commit") else names.get(origin["name"], origin["name"])}

    kept = {key: value for key, value in report.items() if key != "init"}
    return {
        **kept,
        **({} if translator is None else {"translator": public(translator)}),
        "adapters": [public(source) for source in report["adapters"]],
        "skipped": [{**public(entry), "reason": renamed(entry["reason"])} for entry in skipped],
        "warnings": [renamed(line) for line in report["warnings"]],
    }


def _reference(origin: Mapping[str, Any]) -> str:
    """Return ``owner/name@commit``, or the name alone of what has no commit."""
    return f"{origin['name']}@{origin['commit']}" if origin.get("commit") else str(origin["name"])


def _origin(origin: Mapping[str, Any]) -> str:
    if origin.get("commit"):
        return f"{code(origin['name'])} at commit {code(origin['commit'])}"
    return f"{code(origin['name'])} (not from the Hub, so without a commit)"


def _provenance(base: ModelReference, report: Mapping[str, Any]) -> str:
    is_translated = "translator" in report
    lines = [f"{'Large' if is_translated else 'Base'} model: {base.to_markdown()}"]
    lines += [f"Translator: {_origin(report['translator'])}"] if is_translated else []
    lines += [f"Source adapter: {_origin(source)}" for source in report["adapters"]]
    lines += [f"Left out, as it was refused: {_origin(entry)}" for entry in report["skipped"]]
    if len(report["adapters"]) > 1:
        settings = report.get("aggregation_settings")
        is_after = isinstance(settings, Mapping) and settings.get("merge") == "after"
        when = f" {'after' if is_after else 'before'} translation" if is_translated else ""
        lines.append(f"Aggregated by {code(report['aggregation'])}{when}")
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
    sources = (facts.report or facts.aggregation or {}).get("adapters", [])
    for source in sources:
        if source.get("privacy"):
            lines.append(
                f"The maker of {code(source['name'])} states differential privacy of its training: "
                f"{_statement(source['privacy'])}."
            )
        else:
            lines.append(f"No differential privacy is stated for {code(source['name'])}.")
    stated = [source["privacy"] for source in sources if source.get("privacy")]
    if stated:
        lines.append(_consequence(stated, num_sources=len(sources)))
    if not lines:
        lines.append("No differential privacy is stated for its training.")
    if facts.audit is not None:
        lines.append(
            f"Its maker audited it, which is a measurement and no guarantee: {plain(audit_text(facts.audit))}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _consequence(stated: Sequence[Mapping[str, Any]], *, num_sources: int) -> str:
    """Return what the sources' statements say of what was made from them, by nothing but the sources.

    Post-processing keeps each statement for the rows of its own adapter. For a row that several adapters were trained
    on, ε and δ add up (basic composition; Dwork and Roth 2014, Theorem 3.16).
    """
    if num_sources == 1:
        return "Nothing else of its data was read: the same holds here."
    epsilon, delta = (sum(float(statement[key]) for statement in stated) for key in ("epsilon", "delta"))
    rest = "" if len(stated) == num_sources else " Nothing is stated for the rows of the other adapters."
    return (
        "Nothing else of the data was read. So each statement holds here for rows that its adapter alone was trained "
        "on. For rows that several of the adapters were trained on, such as those of one client with several runs, "
        f"they add up: all {len(stated)} together to ε = {epsilon:.4g} at δ = {delta:.4g}, unless the maker states a "
        f"smaller total over all runs on its rows.{rest}"
    )


def _statement(privacy: Mapping[str, Any]) -> str:
    """Return what a stranger states of a training's privacy, as text that cannot leave its place."""
    return plain(privacy_text(privacy))
