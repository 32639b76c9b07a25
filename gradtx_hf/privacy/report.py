"""AuditReport: what the audit of one or more adapters found, without a word or a number of any single row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from gradtx_hf.privacy.membership import Membership
from gradtx_hf.privacy.one_run import EpsilonBound
from gradtx_hf.privacy.row_losses import RowLosses


Attack = Literal["difference", "ratio", "loss", "untouched"]
HEADLINE: Attack = "difference"
"""The attack whose result is told first and bounds epsilon: chosen beforehand, not the best of them."""
CONTROL: Attack = "untouched"
WIDER = 3.290527 / 1.959964
"""Half an interval of 99.9 % over half of one of 95 %, normal approximation."""
ATTACKS: dict[Attack, str] = {
    "difference": "the loss beside the untouched model's (difference)",
    "ratio": "the loss beside the untouched model's (ratio)",
    "loss": "the loss alone",
    "untouched": "the untouched model's loss alone (control: it never saw a member)",
}


def attack_scores(losses: RowLosses) -> dict[Attack, Tensor]:
    """Return every attack's scores of rows, each ``[N]``, higher for what seems a member."""
    return {
        "difference": losses.differences,
        "ratio": losses.ratios,
        "loss": -losses.adapted,
        "untouched": -losses.untouched,
    }


@dataclass(frozen=True)
class MeanLosses:
    """Mean losses in nats per token.

    Attributes:
        members: Of members under the adapter.
        non_members: Of non-members under the adapter.
        members_untouched: Of members under the untouched model.
        non_members_untouched: Of non-members under the untouched model.
    """

    members: float
    non_members: float
    members_untouched: float
    non_members_untouched: float


@dataclass(frozen=True, eq=False)
class AdapterAudit:
    """What was found of one adapter.

    Attributes:
        name: What the user called it.
        base_model: The model that it is read with.
        attacks: Every attack's result.
        losses: Mean losses.
        privacy: What its maker states of its training, if anything (see ``records.load_privacy``).
        bound: Lower bound of epsilon, where coins divided the rows; else None.
        members: Losses of members: for plots, never written.
        non_members: Losses of non-members: for plots, never written.
    """

    name: str
    base_model: str
    attacks: Mapping[Attack, Membership]
    losses: MeanLosses
    privacy: Mapping[str, Any] | None
    bound: EpsilonBound | None
    members: RowLosses
    non_members: RowLosses

    @property
    def is_refuted(self) -> bool:
        """Whether the lower bound exceeds the epsilon that is stated."""
        return self.bound is not None and self.privacy is not None and self.bound.epsilon > self.privacy["epsilon"]

    @property
    def differs_before(self) -> bool:
        """Whether members and non-members differ for the untouched model, which saw neither: they were drawn unlike.

        At 99.9 %, as the interval of 95 % would say so of one sound audit in twenty.
        """
        control = self.attacks[CONTROL]
        return abs(control.auc - 0.5) > max(control.auc_high - control.auc, control.auc - control.auc_low) * WIDER

    def record(self) -> dict[str, Any]:
        """Return what stands beside the adapter (see ``audit_record``)."""
        found = self.attacks[HEADLINE]
        bound = None
        if self.bound is not None:
            bound = {key: value for key, value in asdict(self.bound).items() if key != "num_tries"}
        return {
            "attack": ATTACKS[HEADLINE],
            "num_members": len(self.members.adapted),
            "num_non_members": len(self.non_members.adapted),
            "auc": found.auc,
            "auc_low": found.auc_low,
            "auc_high": found.auc_high,
            "true_positive_rates": [
                {key: value for key, value in asdict(rate).items() if key != "reason"} for rate in found.rates
            ],
            "epsilon_bound": bound,
        }

    def to_json(self) -> dict[str, Any]:
        """Return all but single rows' values."""
        return {
            "name": self.name,
            "base_model": self.base_model,
            "num_members": len(self.members.adapted),
            "num_non_members": len(self.non_members.adapted),
            "attacks": {name: asdict(found) | {"caught": found.is_caught} for name, found in self.attacks.items()},
            "mean_losses": asdict(self.losses),
            "members_differ_before_training": self.differs_before,
            "privacy": None if self.privacy is None else dict(self.privacy),
            "epsilon_bound": None if self.bound is None else asdict(self.bound),
            "stated_epsilon_is_refuted": self.is_refuted,
        }


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What an audit found.

    Attributes:
        adapters: Each adapter's part, in the order given.
        config: What was asked for, without paths of data.
        seconds: Wall-clock time.
        versions: Of the libraries.
    """

    adapters: tuple[AdapterAudit, ...]
    config: Mapping[str, Any]
    seconds: float
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "adapters": [audit.to_json() for audit in self.adapters],
            "config": dict(self.config),
            "seconds": self.seconds,
            "versions": dict(self.versions),
        }
