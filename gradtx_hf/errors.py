"""The errors that a user of gradtx_hf meets: one clear line each, and each also the stdlib error it replaces."""

from __future__ import annotations

import re


SECRET_PATTERN = re.compile(
    r"(?<=://)[^/\s]+(?=@)"
    r"|(?<![\w/])hf_[A-Za-z0-9]{12,}|\bhf_[A-Za-z0-9]{20,}|\bhf_(?:oauth|jwt)_[\w.-]{12,}|\bapi_org_[A-Za-z0-9]{20,}"
)
"""A name with a password in an address, and an access token of the Hub; behind a slash only a long one, as a repository
may be called ``owner/hf_name``."""
MAX_MESSAGE_CHARACTERS = 2000


def safe_text(text: str) -> str:
    """Return a text as it may be shown: printable characters on one line, without tokens and passwords."""
    shown = text if text.isprintable() else "".join(map(_printable, text))
    return SECRET_PATTERN.sub("…", shown)


def holds_secret(text: str) -> bool:
    """Return whether a text holds a token, or an address with a password."""
    return SECRET_PATTERN.search(text) is not None


def _printable(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class GradTxError(Exception):
    """Any refusal or failure of gradtx_hf that a user can act on.

    Messages may quote what a stranger's file holds, so that whatever it is, they show as one safe line.
    """

    def __str__(self) -> str:
        text = safe_text(super().__str__())
        if len(text) <= MAX_MESSAGE_CHARACTERS:
            return text
        return f"{text[: MAX_MESSAGE_CHARACTERS // 2]} … {text[-MAX_MESSAGE_CHARACTERS // 2 :]}"


class AdapterError(GradTxError, ValueError):
    """An adapter cannot be read, or is of a kind that cannot be translated."""


class LayoutError(GradTxError, ValueError):
    """Tensors, layouts or tokens do not fit each other."""


class DataError(GradTxError, ValueError):
    """A data set is empty, or lacks what its description names."""


class ConfigurationError(GradTxError, ValueError):
    """An argument or a configuration value cannot be used."""


class StoreError(GradTxError, ValueError):
    """An update store is incomplete, damaged or belongs to another plan."""


class MissingFileError(GradTxError, FileNotFoundError):
    """A file, folder or repository that was named is not there."""


class OutputExistsError(GradTxError, FileExistsError):
    """An output folder exists and is not ours to write into."""


class HubError(GradTxError, OSError):
    """The Hub refuses a request, cannot be reached, or holds something that must not be written over."""


class MissingExtraError(GradTxError, ImportError):
    """A part of the package needs an optional dependency that is not installed."""
