"""ClientArguments: all that ``gradtx client`` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradtx_hf.client.finetune import WORK_DIR
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import DataSource, FineTuningRecipe, PrivacySettings


@dataclass
class ClientArguments:
    """What an organisation fine-tunes, on what, how, and where its adapter goes."""

    init: str = field(
        metadata={"help": "The translator to start from, or its source_init: a folder, or 'owner/name[@revision]'."}
    )
    """The translator, whose ``source_init`` is taken, or an initial adapter itself, such as ``target_init`` for a
    ceiling: a folder, or a Hub repository ``owner/name[@revision]``."""
    data: dict[str, Any] = field(metadata={"help": "The private data: fields of DataSource, path at least."})
    """The private data: fields of DataSource, ``path`` at least. They are read here and go nowhere."""
    recipe: dict[str, Any] = field(
        metadata={"help": "FineTuningRecipe: num_steps, batch_size, learning_rate and further fields."}
    )
    """FineTuningRecipe: ``num_steps``, ``batch_size``, ``learning_rate`` and further fields."""
    output_dir: str = field(metadata={"help": "Folder of the adapter; it must not exist, or be empty."})
    """Folder of the adapter; it must not exist, or be empty."""
    base_model: str | None = field(
        metadata={"help": "The base model; by default the one that the initial adapter names."}, default=None
    )
    """The base model: a folder, or an id on the Hub; by default the one that the initial adapter names."""
    seed: int = field(metadata={"help": "Seed of the order of the data and of dropout."}, default=0)
    """Seed of the order of the data and of dropout; nothing of a private run follows from it."""
    privacy: dict[str, Any] | None = field(
        metadata={"help": "PrivacySettings: epsilon or noise_multiplier, delta, max_grad_norm; none: not private."},
        default=None,
    )
    """PrivacySettings for DP-SGD: ``epsilon`` or ``noise_multiplier``, and further fields; None trains without."""
    work_dir: str = field(
        metadata={"help": "Folder of your own for the ledger of private runs, which add up on the same rows."},
        default=WORK_DIR,
    )
    """Folder of the client's own, where the ledger of private runs is kept; it never leaves the house."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one cannot be used.
        """
        for name in ("data", "recipe"):
            if not isinstance(getattr(self, name), dict):
                raise ConfigurationError(f"got {name}={getattr(self, name)!r}, expected keys and values.")
        if not isinstance(self.privacy, dict | None):
            raise ConfigurationError(f"got privacy={self.privacy!r}, expected keys and values.")
        _ = self.data_source, self.fine_tuning_recipe, self.privacy_settings

    @property
    def data_source(self) -> DataSource:
        """The private data."""
        return DataSource.from_dict(self.data)

    @property
    def fine_tuning_recipe(self) -> FineTuningRecipe:
        """How to train."""
        return FineTuningRecipe.from_dict(self.recipe)

    @property
    def privacy_settings(self) -> PrivacySettings | None:
        """How private, if at all."""
        return None if self.privacy is None else PrivacySettings.from_dict(self.privacy)
