"""A repository's card: the metadata at its head, and the tags by which the Hub finds the repository."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from gradtx_hf.playground.hub_server.refusal import Refusal
from gradtx_hf.playground.hub_server.repository import Kind


HEAD_PATTERN = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
PREFIXED_FIELDS: dict[Kind, tuple[str, ...]] = {
    "models": ("license",),
    "datasets": ("task_categories", "language", "license", "size_categories"),
    "spaces": ("license",),
}


def read_metadata(text: str) -> dict[str, Any]:
    """Return the metadata at the head of a card; empty if there is none.

    Raises:
        Refusal: If they are no YAML mapping.
    """
    match = HEAD_PATTERN.match(text)
    if match is None:
        return {}
    try:
        values = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise _invalid(f"YAML error: {' '.join(str(error).split())}") from error
    if values is not None and not isinstance(values, dict):
        raise _invalid(f"the metadata are a {type(values).__name__}, expected a mapping")
    return values or {}


def check_card(content: bytes) -> None:
    """Refuse a card that the Hub would refuse.

    Raises:
        Refusal: If the metadata are malformed, or a base model is no repository id.
    """
    metadata = read_metadata(content.decode("utf-8", "replace"))
    for name in _as_list(metadata.get("base_model")):
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
            raise _invalid(f'"base_model" with value "{name}" is not valid. Use a model id from https://hf.co/models.')


def make_tags(metadata: Mapping[str, Any], *, kind: Kind, has_adapter: bool) -> list[str]:
    """Return the tags that the Hub derives from a card.

    Args:
        metadata: The card's metadata.
        kind: What kind of repository it describes.
        has_adapter: Whether the repository holds a PEFT adapter, which tells how it relates to its base model if the
            card does not.
    """
    tags = [metadata.get("library_name"), metadata.get("pipeline_tag"), *_as_list(metadata.get("tags"))]
    if kind == "models":
        tags += _as_list(metadata.get("language"))
        tags += [f"dataset:{name}" for name in _as_list(metadata.get("datasets"))]
        base_models = _as_list(metadata.get("base_model"))
        inferred = "adapter" if has_adapter else "merge" if len(base_models) > 1 else "finetune"
        relation = metadata.get("base_model_relation") or inferred
        tags += [f"base_model:{name}" for name in base_models]
        tags += [f"base_model:{relation}:{name}" for name in base_models]
    for field in PREFIXED_FIELDS[kind]:
        tags += [f"{field}:{value}" for value in _as_list(metadata.get(field))]
    return list(dict.fromkeys(str(tag) for tag in tags if tag))


def _as_list(value: object) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _invalid(message: str) -> Refusal:
    return Refusal(400, f"Invalid metadata in README.md: {message}", content={"errors": [{"message": message}]})
