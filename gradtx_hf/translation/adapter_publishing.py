"""Publish an adapter: PEFT's own two files, the translation's report, a privacy statement, and a card."""

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
from gradtx_hf.translation.records import PRIVACY_FILE, TRANSLATION_FILE, load_privacy, load_translation


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", TRANSLATION_FILE, PRIVACY_FILE)
TRANSLATED_ADAPTER = RepoKind("translated-adapter", ADAPTER_FILES)
CLIENT_ADAPTER = RepoKind("adapter", ADAPTER_FILES)


def publish_adapter(
    adapter: Adapter,
    destination: Destination,
    *,
    report: Mapping[str, Any] | None = None,
    privacy: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    commit_message: str | None = None,
) -> Published:
    """Publish an adapter as one commit.

    Args:
        adapter: The adapter.
        destination: Where.
        report: What was translated and how; None for an adapter that was not translated.
        privacy: What its maker states of its training (see ``records.load_privacy``).
        base_model: Id of the base model on the Hub, ``owner/name[@revision]``, in place of what the adapter names.
        commit_message: First line of the commit.

    Raises:
        ConfigurationError: If others could not find the base model.
        HubError: If the repository cannot be written; see ``hub.publish``.
    """
    adapter = with_base_model(adapter, base_model)
    published = None if report is None else without_private(public_report(report))
    card = adapter_card(AdapterFacts(destination.repo_id, destination.revision, adapter, published, privacy))
    records = {TRANSLATION_FILE: published, PRIVACY_FILE: privacy}
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
    commit_message: str | None = None,
) -> Published:
    """Publish an adapter's folder, one that was translated or one that PEFT saved; see ``publish_adapter``.

    Raises:
        AdapterError: If it is no LoRA adapter.
        LayoutError: If a file beside it is damaged.
    """
    name = str(folder)
    return publish_adapter(
        load_adapter(folder),
        destination,
        report=load_translation(Path(folder), name=name),
        privacy=load_privacy(Path(folder), name=name),
        base_model=base_model,
        commit_message=commit_message,
    )


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
