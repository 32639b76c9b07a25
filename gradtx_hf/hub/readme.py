"""Bring a repository's README.md up to date: our generated part and our metadata keys, nothing else.

The generated part stands between two HTML comments. A person may write before it, after it, and into the metadata:
those bytes stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from gradtx_hf.errors import HubError


PROVENANCE_KEY = "gradtx_hf"
"""The metadata key that is ours alone: what the repository is, and what it was made from."""
OWNED_KEYS = frozenset(
    [
        "base_model",
        "base_model_relation",
        "configs",
        "datasets",
        "library_name",
        "model-index",
        "pipeline_tag",
        "size_categories",
        PROVENANCE_KEY,
    ]
)
"""Metadata keys that a push replaces, or removes where it has no value for them."""
TAGS_KEY = "tags"
FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
BEGIN = "<!-- gradtx_hf: everything down to the end mark is written anew by every push; write above or below it -->"
END = "<!-- gradtx_hf: end -->"


@dataclass(frozen=True)
class Card:
    """A card as it is generated.

    Attributes:
        metadata: Metadata by key: JSON values. Tags are added to those that are there; a license takes the place of
            the one that is there, and without one that one stays; all other keys must be among ``OWNED_KEYS``.
        body: Markdown of the generated part.
    """

    metadata: Mapping[str, Any]
    body: str


def update_readme(existing: str | None, *, card: Card, kind: str, name: str) -> str:
    """Return the README with the card's metadata and generated part.

    Args:
        existing: The README as it is; None if there is none.
        card: The card.
        kind: What the repository is; goes into the metadata, where ``kind_of`` finds it.
        name: What messages call the repository.

    Raises:
        HubError: If the metadata are not YAML keys and values, or of the two marks one is missing or out of place.
    """
    text = existing or ""
    provenance = {"kind": kind, **card.metadata.get(PROVENANCE_KEY, {})}
    metadata = {**card.metadata, PROVENANCE_KEY: provenance}
    front = FRONT_MATTER.match(text)
    values = front["yaml"] if front else ""
    updated = _update_metadata(values, metadata, name)
    rest = text[front.end() :] if front else text
    head = text[: front.start("yaml")] if front else "---\n"
    tail = text[front.end("yaml") : front.end()] if front else "---\n"
    if not tail.endswith("\n"):
        tail += "\n"
    return head + updated + tail + _update_body(rest, card.body, name)


def kind_of(readme: str | None) -> str | None:
    """Return what kind of repository of ours a README says that it describes; None if it does not say so."""
    front = FRONT_MATTER.match(readme or "")
    if front is None:
        return None
    try:
        values = yaml.safe_load(front["yaml"])
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    ours = values.get(PROVENANCE_KEY) if isinstance(values, dict) else None
    kind = ours.get("kind") if isinstance(ours, dict) else None
    return kind if isinstance(kind, str) else None


def _update_body(text: str, body: str, name: str) -> str:
    body = body.replace(BEGIN, "").replace(END, "").strip()  # a stranger's word in it ends nothing
    part = f"{BEGIN}\n\n{body}\n\n{END}"
    begins, ends = text.count(BEGIN), text.count(END)
    if begins == ends == 0:
        gap = "\n\n" if text.strip() and not text.endswith("\n") else "\n"
        return f"{text}{gap}{part}\n"
    start, end = text.find(BEGIN), text.find(END)
    if (begins, ends) != (1, 1) or end < start:
        raise HubError(
            f"README.md of repository '{name}' has not one begin mark and one end mark of the generated part, in that "
            f"order. Put '{END}' behind that part, or remove it with its marks."
        )
    return text[:start] + part + text[end + len(END) :]


def _update_metadata(text: str, metadata: Mapping[str, Any], name: str) -> str:
    """Return the YAML text with our keys replaced; all else byte for byte."""
    blocks = _blocks(text, name)
    values = dict(metadata)
    found = _tags(text) if TAGS_KEY in blocks else []
    if set(values.get(TAGS_KEY, ())) <= set(found):
        values.pop(TAGS_KEY, None)
    else:
        values[TAGS_KEY] = [*values[TAGS_KEY], *(tag for tag in found if tag not in values[TAGS_KEY])]
    written = []
    for key, block in blocks.items():
        if key in values:
            written.append(_dump(key, values.pop(key)) + _comments_behind(block))
        else:
            written.append(_comments_behind(block) if key in OWNED_KEYS else block)
    kept = "".join(written)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    return kept + "".join(_dump(key, value) for key, value in values.items())


def _blocks(text: str, name: str) -> dict[str, str]:
    """Split YAML into its top-level keys, in order, each with the text down to the next; ``""`` is before the first."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        yaml.safe_load(text)  # values too, such as dates, can be wrong
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise HubError(f"the metadata in README.md of repository '{name}' are not YAML. Mend them there.") from error
    if node is None:
        return {"": text} if text else {}
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        raise HubError(f"the metadata in README.md of repository '{name}' are not lines 'key: value'. Mend them there.")
    starts = [(str(key.value), key.start_mark.index) for key, _ in node.value]
    bounds = [start for _, start in starts[1:]] + [len(text)]
    blocks = {"": text[: starts[0][1]]} if starts[0][1] > 0 else {}
    for (key, start), end in zip(starts, bounds, strict=True):
        if key in blocks:
            raise HubError(f"the metadata in README.md of repository '{name}' name '{key}' twice. Mend them there.")
        blocks[key] = text[start:end]
    return blocks


def _comments_behind(block: str) -> str:
    """Return the comments and blank lines at the end of a key's text: a person's, about the next key."""
    lines = block.splitlines(keepends=True)
    count = 0
    while count < len(lines) - 1 and (not lines[-1 - count].strip() or lines[-1 - count].startswith("#")):
        count += 1
    return "".join(lines[len(lines) - count :])


def _tags(text: str) -> list[str]:
    found = yaml.safe_load(text)[TAGS_KEY]
    listed = found if isinstance(found, list) else [found]
    return [tag for tag in listed if isinstance(tag, str)]


def _dump(key: str, value: Any) -> str:  # noqa: ANN401 - any JSON value
    return yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1_000_000)
