"""What an audit of an adapter found, as it stands beside the adapter: the key ``audit`` of privacy.json.

It is a measurement by whoever ran it, not a guarantee, and holds numbers only: no row, no path, no loss of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.errors import AdapterError
from gradtx_hf.translation.records import PRIVACY_FILE, load_record


AUDIT_KEY = "audit"


def load_audit(folder: Path, *, name: str) -> dict[str, Any] | None:
    """Read what an audit of an adapter found; None if there was none.

    Args:
        folder: The adapter's folder.
        name: What messages call the adapter.

    Raises:
        AdapterError: If it is not what ``gradtx audit --write-card`` writes.
        LayoutError: If the file is damaged.
    """
    audit = (load_record(folder, PRIVACY_FILE, name=name) or {}).get(AUDIT_KEY)
    if audit is None:
        return None
    try:
        return _checked(audit)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"the audit in {PRIVACY_FILE} of '{name}' is not what gradtx audit writes. Audit the adapter again, or "
            "remove the key."
        ) from error


def audit_text(audit: Mapping[str, Any]) -> str:
    """Return an audit in words."""
    text = (
        f"membership inference by {audit['attack']} on {audit['num_members']} rows of the training and "
        f"{audit['num_non_members']} others: AUC {audit['auc']:.3f} [{audit['auc_low']:.3f}, {audit['auc_high']:.3f}]"
    )
    for rate in audit["true_positive_rates"]:
        if rate["value"] is not None:
            text += f", TPR {rate['value']:.4f} at {rate['false_positive_rate']:.1%} FPR"
    bound = audit["epsilon_bound"]
    if bound is not None:
        text += (
            f"; lower bound of ε {bound['epsilon']:.3f} at δ = {bound['delta']:.3g} and confidence "
            f"{bound['confidence']:.4g}"
        )
    return text


def _checked(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known keys of an audit; or raise what absent keys, other types and impossible numbers raise."""
    attack = audit["attack"]
    if not isinstance(attack, str) or len(attack) > 100:
        raise TypeError(attack)
    bound = audit["epsilon_bound"]
    return {
        "attack": attack,
        **{name: _number(audit[name], 1e12) for name in ("num_members", "num_non_members")},
        **{name: _number(audit[name], 1) for name in ("auc", "auc_low", "auc_high")},
        "true_positive_rates": [
            {
                "false_positive_rate": _number(rate["false_positive_rate"], 1),
                **{name: None if rate[name] is None else _number(rate[name], 1) for name in ("value", "low", "high")},
            }
            for rate in audit["true_positive_rates"]
        ],
        "epsilon_bound": None
        if bound is None
        else {
            "epsilon": _number(bound["epsilon"], math.inf),
            **{name: _number(bound[name], 1) for name in ("delta", "confidence")},
            **{name: _number(bound[name], 1e12) for name in ("num_canaries", "num_guesses", "num_correct")},
        },
    }


def _number(value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(value)
    return value
