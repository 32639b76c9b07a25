"""AuditArguments: all that ``gradtx audit`` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import DataSource


@dataclass
class AuditArguments:
    """Which adapters are audited, on what, and where the report goes."""

    adapters: list[str] = field(
        metadata={"help": "The adapters, such as a client's and its translation: folders, or 'owner/name[@revision]'."}
    )
    """The adapters, such as a client's and its translation: folders, or Hub repositories."""
    members: dict[str, Any] | str = field(
        metadata={"help": "Rows that the adapter was trained on: a file, or fields of DataSource."}
    )
    """Rows that the adapter was trained on: a file, or fields of DataSource. They are read here and go nowhere."""
    non_members: dict[str, Any] | str = field(
        metadata={"help": "Rows that it was not trained on, drawn alike: a file, or fields of DataSource."}
    )
    """Rows that it was not trained on, drawn alike: where they differ otherwise, the audit measures that."""
    output_dir: str = field(metadata={"help": "Folder of the report; it must not exist, or be empty."})
    """Folder of the report; it must not exist, or be empty."""
    base_models: list[str] | None = field(
        metadata={"help": "The base model of each adapter; by default the one that it names."}, default=None
    )
    """The base model of each adapter; by default the one that it names."""
    max_length: int = field(metadata={"help": "Most tokens per row, as in the training."}, default=512)
    """Most tokens per row, as in the training."""
    batch_size: int = field(metadata={"help": "Rows at once."}, default=32)
    """Rows at once."""
    split_by_coins: bool = field(
        metadata={
            "help": "Say that a fair coin of each row's own made it a member or not: gives a lower bound of epsilon."
        },
        default=False,
    )
    """Whether a fair coin of each row's own decided if it became a member: the audit then bounds epsilon from below."""
    write_card: bool = field(
        metadata={
            "help": "Write the result into each adapter's privacy.json and README.md; no epsilon covers these numbers."
        },
        default=False,
    )
    """Whether to write the result into each adapter's privacy.json and README.md: numbers about private rows, which no
    epsilon covers."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one cannot be used.
        """
        if not self.adapters:
            raise ConfigurationError("got no adapter to audit, expected one or more.")
        if len(set(self.adapters)) < len(self.adapters):
            raise ConfigurationError("got an adapter twice, expected each once.")
        if self.base_models is not None and len(self.base_models) != len(self.adapters):
            raise ConfigurationError(
                f"got {len(self.base_models)} base_models for {len(self.adapters)} adapters, expected one for each."
            )
        for name, least in (("max_length", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"got {name}={getattr(self, name)}, expected at least {least}.")
        _ = self.member_source, self.non_member_source

    @property
    def member_source(self) -> DataSource:
        """The rows that the adapters were trained on."""
        return _source(self.members)

    @property
    def non_member_source(self) -> DataSource:
        """The rows that they were not trained on."""
        return _source(self.non_members)


def _source(values: dict[str, Any] | str) -> DataSource:
    return DataSource.from_dict({"path": values} if isinstance(values, str) else values)
