"""Where to publish, what kind of repository it is to be, and what can be a repository's id, a commit or a token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported without __all__

from gradtx_hf.errors import ConfigurationError


COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RepoKind:
    """What a repository of ours holds.

    Attributes:
        name: Such as ``translator``; the card carries it, and says so that the repository is ours.
        owned: Patterns of the files that a push replaces; those it does not bring are removed.
    """

    name: str
    owned: tuple[str, ...]


@dataclass(frozen=True)
class Destination:
    """Where to publish.

    Attributes:
        repo_id: ``owner/name``.
        private: Whether a new repository is private; an existing one must then not be public.
        revision: Branch, made from the default branch if it is not there; the default branch if None.
        token: Access token; the one that ``hf auth login`` stored if None.
        repo_type: What kind of repository.
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    token: str | None = None
    repo_type: Literal["model", "dataset"] = "model"

    def __post_init__(self) -> None:
        """Check what can be checked without the network.

        Raises:
            ConfigurationError: If an argument cannot be used.
        """
        if not is_full_repo_id(self.repo_id):
            raise ConfigurationError(f"got repository '{self.repo_id}', expected an id such as 'owner/name'.")
        if self.revision is not None and (not self.revision or COMMIT_PATTERN.fullmatch(self.revision)):
            raise ConfigurationError(f"got revision '{self.revision}', expected a branch to write to, such as 'main'.")
        check_token(self.token)

    def __str__(self) -> str:
        return f"repository '{self.repo_id}'"


def check_token(token: str | None) -> None:
    """Check that a token can be one.

    Raises:
        ConfigurationError: If it holds characters that no token has.
    """
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise ConfigurationError(
            "the token holds spaces, line breaks or other characters that no token has. Copy it again from "
            "https://huggingface.co/settings/tokens."
        )


def is_repo_id(name: str) -> bool:
    """Return whether a name can be that of a repository: ``owner/name``, or ``name`` alone."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_full_repo_id(name: str) -> bool:
    """Return whether a name can be that of a repository with an owner: ``owner/name``."""
    return is_repo_id(name) and name.count("/") == 1
