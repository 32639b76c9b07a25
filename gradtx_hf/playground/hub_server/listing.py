"""Search among repositories: which of them, in which order, with which fields, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


MAX_PAGE_SIZE = 1000
LISTED_FIELDS = (
    "_id", "id", "modelId", "createdAt", "downloads", "library_name", "likes", "pipeline_tag", "private", "sdk", "tags",
)  # fmt: skip
LISTED_IF_FULL = ("author", "disabled", "gated", "lastModified", "sha", "siblings")


def select(
    items: Sequence[Mapping[str, Any]], *, author: str, search: Sequence[str], tags: Sequence[str], pipeline_tag: str
) -> list[Mapping[str, Any]]:
    """Return the repositories that fit all that is asked for; what is empty is not asked for.

    Args:
        items: Descriptions of repositories.
        author: The owner.
        search: Parts of the id, in upper or lower case.
        tags: Tags that a repository must all have.
        pipeline_tag: The task.
    """
    return [
        item
        for item in items
        if (not author or item["author"] == author)
        and all(part.lower() in item["id"].lower() for part in search)
        and set(tags) <= set(item["tags"])
        and (not pipeline_tag or item.get("pipeline_tag") == pipeline_tag)
    ]


def order(items: Sequence[Mapping[str, Any]], *, by: str, is_ascending: bool) -> list[Mapping[str, Any]]:
    """Return repositories by a field, largest or newest first; equal ones newest first."""
    newest_first = sorted(items, key=lambda item: str(item["lastModified"]), reverse=True)
    if by not in ("createdAt", "downloads", "lastModified", "likes"):
        by = "likes"  # the Hub's trending score counts what nobody here gives
    return sorted(newest_first, key=lambda item: item[by], reverse=not is_ascending)


def shorten(item: Mapping[str, Any], *, expand: Sequence[str], is_full: bool, with_card: bool) -> dict[str, Any]:
    """Return a description with the fields that a list gives, or with those that were asked for by name."""
    if expand:
        names: tuple[str, ...] = ("_id", "id", *expand)
    else:
        names = (*LISTED_FIELDS, *(LISTED_IF_FULL if is_full else ()), *(("cardData",) if with_card else ()))
    return {name: item[name] for name in names if name in item}
