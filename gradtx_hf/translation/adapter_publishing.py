"""Publish an adapter: PEFT's own two files, of what and how it was made, a privacy statement, and a card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.hub import Destination, Published, RepoKind, publish
from gradtx_hf.hub.cards import with_base_model
from gradtx_hf.hub.wording import without_private
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.translation.adapter_card import AdapterFacts, adapter_card, public_report
from gradtx_hf.translation.audit_record import AUDIT_KEY, load_audit
from gradtx_hf.translation.records import (
    AGGREGATION_FILE,
    PRIVACY_FILE,
    TRANSLATION_FILE,
    load_aggregation,
    load_privacy,
    load_translation,
)


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", TRANSLATION_FILE, AGGREGATION_FILE, PRIVACY_FILE)
TRANSLATED_ADAPTER = RepoKind("translated-adapter", ADAPTER_FILES)
CLIENT_ADAPTER = RepoKind("adapter", ADAPTER_FILES)


def publish_adapter(  # noqa: PLR0913 - what is published, and what is said of it
    adapter: Adapter,
    destination: Destination,
    *,
    report: Mapping[str, Any] | None = None,
    aggregation: Mapping[str, Any] | None = None,
    privacy: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    license_id: str | None = None,
    commit_message: str | None = None,
) -> Published:
    """Publish an adapter as one commit.

    Args:
        adapter: The adapter.
        destination: Where.
        report: What was translated and how; None for an adapter that was not translated.
        aggregation: What was aggregated and how; None for an adapter that was not aggregated.
        privacy: What its maker states of its training (see ``records.load_privacy``).
        audit: What an audit of it found (see ``audit_record.load_audit``).
        base_model: Id of the base model on the Hub, ``owner/name[@revision]``, in place of what the adapter names.
        license_id: License of the adapter, as the Hub names it; None: none is written.
        commit_message: First line of the commit.

    Raises:
        ConfigurationError: If others could not find the base model, or the license cannot be one.
        HubError: If the repository cannot be written; see ``hub.publish``.
    """
    adapter = with_base_model(adapter, base_model)
    translated, aggregated = (
        None if made_from is None else without_private(public_report(made_from)) for made_from in (report, aggregation)
    )
    card = adapter_card(
        AdapterFacts(
            destination.repo_id,
            destination.revision,
            adapter,
            translated,
            privacy,
            aggregated,
            license_id=license_id,
            audit=audit,
        )
    )
    private = privacy if audit is None else {**(privacy or {}), AUDIT_KEY: audit}
    records = {TRANSLATION_FILE: translated, AGGREGATION_FILE: aggregated, PRIVACY_FILE: private}
    with tempfile.TemporaryDirectory(prefix="gradtx-") as folder:
        save_adapter(folder, config=adapter.config, tensors=adapter.tensors)
        files: dict[str, Path | bytes] = {path.name: path for path in Path(folder).iterdir()}
        files |= {name: _json(values) for name, values in records.items() if values is not None}
        return publish(
            files,
            destination,
            kind=CLIENT_ADAPTER if report is None else TRANSLATED_ADAPTER,
            card=card,
            commit_message=commit_message or f"{'Adapter' if report is None else 'Translated adapter'} of gradtx_hf",
        )


def publish_adapter_folder(
    folder: str | Path,
    destination: Destination,
    *,
    base_model: str | None = None,
    license_id: str | None = None,
    commit_message: str | None = None,
) -> Published:
    """Publish an adapter's folder, one that was translated, aggregated, or saved by PEFT; see ``publish_adapter``.

    Raises:
        AdapterError: If it is no LoRA adapter.
        LayoutError: If a file beside it is damaged.
    """
    name = str(folder)
    return publish_adapter(
        load_adapter(folder),
        destination,
        report=load_translation(Path(folder), name=name),
        aggregation=load_aggregation(Path(folder), name=name),
        privacy=load_privacy(Path(folder), name=name),
        audit=load_audit(Path(folder), name=name),
        base_model=base_model,
        license_id=license_id,
        commit_message=commit_message,
    )


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
