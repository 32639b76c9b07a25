"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gradtx_hf.playground.hub_server.refusal import Refusal, repository_not_found
from gradtx_hf.playground.hub_server.repository import Repository


@dataclass(frozen=True)
class Accounts:
    """The Hub's users.

    A namespace is a user's, or an organization's, or no one's: in the last everybody may make repositories, and each
    belongs to whoever made it.

    Attributes:
        users: User names by token.
        organizations: The members of each organization; they read and write all that is in its name.
    """

    users: Mapping[str, str]
    organizations: Mapping[str, Collection[str]] = field(default_factory=dict)

    def user(self, authorization: str | None) -> str | None:
        """Return the user of an ``Authorization`` header, None without one.

        Raises:
            Refusal: If the token is no one's.
        """
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.users[token]

    def organizations_of(self, user: str) -> list[str]:
        """Return the organizations that a user is a member of."""
        return [name for name, members in self.organizations.items() if user in members]

    def may_create(self, user: str, owner: str) -> bool:
        """Return whether a user may make repositories in a name."""
        is_taken = owner in self.users.values() or owner in self.organizations
        return owner == user or owner in self.organizations_of(user) or not is_taken

    def is_member(self, user: str | None, repository: Repository) -> bool:
        """Return whether a repository is the user's own, or the user's organization's."""
        if user is None:
            return False
        return user in (repository.owner, repository.creator) or repository.owner in self.organizations_of(user)

    def check_read(self, user: str | None, repository: Repository) -> None:
        """Refuse a private repository to all but its members, as if it were not there.

        Raises:
            Refusal: If the user may not see it.
        """
        if repository.is_private and not self.is_member(user, repository):
            raise repository_not_found(is_anonymous=user is None)

    def check_download(self, user: str | None, repository: Repository) -> None:
        """Refuse the files of a gated repository to all but its members and those with a grant.

        Raises:
            Refusal: If the user may not read them.
        """
        if repository.gated and not (self.is_member(user, repository) or user in repository.granted):
            raise Refusal(
                401 if user is None else 403,
                f"Access to {repository.kind[:-1]} {repository.repo_id} is restricted. Ask its owner for access.",
                code="GatedRepo",
            )

    def check_write(self, user: str | None, repository: Repository) -> None:
        """Refuse changes by others than members.

        Raises:
            Refusal: If the user may not change it.
        """
        self.check_read(user, repository)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not self.is_member(user, repository):
            raise Refusal(403, f"You don't have the rights to change {repository.repo_id} with this token")
