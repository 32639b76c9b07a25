"""The JSON files that a translator's or an adapter's folder carries beside its tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.errors import AdapterError, LayoutError
from gradtx_hf.updates.reading import ForeignFolder


TRAINING_FILE = "training.json"
"""How a translator was trained: arguments, data, errors."""
RESULTS_FILE = "report.json"
"""What an evaluation of a translator found."""
TRANSLATION_FILE = "translation.json"
"""From what and how an adapter was translated."""
AGGREGATION_FILE = "aggregation.json"
"""From what and how a source adapter was aggregated."""
PRIVACY_FILE = "privacy.json"
"""What a client states of its adapter's training: ``epsilon``, ``delta``, ``accountant``, and how it came to them."""
PRIVACY_NUMBERS = ("noise_multiplier", "sample_rate", "num_steps", "expected_batch_size", "max_grad_norm")
PRIVACY_TEXTS = ("clipping", "unit", "sampling", "randomness")
MAX_TEXT_CHARACTERS = 300


def load_record(folder: Path, file: str, *, name: str) -> dict[str, Any] | None:
    """Read a JSON file of a folder; None if there is none.

    Args:
        folder: The folder.
        file: Name of the file.
        name: What messages call the folder.

    Raises:
        LayoutError: If the file is damaged, too large or no JSON object.
    """
    files = ForeignFolder(folder, f"'{name}'", LayoutError)
    if not files.has(file):
        return None
    values = files.read_json(file)
    try:
        json.dumps(values, allow_nan=False)  # which JSON has not, but Python reads
    except ValueError as error:
        raise LayoutError(f"{file} of '{name}' holds NaN or an infinity, which JSON has not. Remove it.") from error
    if not isinstance(values, dict):
        raise LayoutError(f"{file} of '{name}' holds no JSON object. Copy or download it again, or remove it.")
    return values


def load_translation(folder: Path, *, name: str) -> dict[str, Any] | None:
    """Read what says how an adapter was translated; None for an adapter that was not.

    Args:
        folder: The adapter's folder.
        name: What messages call the adapter.

    Raises:
        LayoutError: If it is not what a translation writes.
    """
    return _load_made_from(folder, TRANSLATION_FILE, name=name, written_by="gradtx translate", not_so="translated")


def load_aggregation(folder: Path, *, name: str) -> dict[str, Any] | None:
    """Read what says how a source adapter was aggregated; None for an adapter that was not.

    Args:
        folder: The adapter's folder.
        name: What messages call the adapter.

    Raises:
        LayoutError: If it is not what an aggregation writes.
    """
    return _load_made_from(folder, AGGREGATION_FILE, name=name, written_by="gradtx aggregate", not_so="aggregated")


def _load_made_from(folder: Path, file: str, *, name: str, written_by: str, not_so: str) -> dict[str, Any] | None:
    values = load_record(folder, file, name=name)
    if values is None:
        return None
    try:
        is_whole = _is_made_from(values, is_translation=file == TRANSLATION_FILE)
    except (KeyError, TypeError, AttributeError, ValueError):
        is_whole = False
    if not is_whole:
        raise LayoutError(
            f"{file} of '{name}' is not what {written_by} writes. Copy or download it again, or remove it to publish "
            f"the adapter as one that was not {not_so}."
        )
    return values


def _is_made_from(values: Mapping[str, Any], *, is_translation: bool) -> bool:
    """Return whether a record has all that a card reads; or raise what absent keys and other types raise."""
    origins = [*([values["translator"]] if is_translation else []), *values["adapters"], *values.get("skipped", [])]
    texts = [values["source_base_model"], values["aggregation"], *values["warnings"]]
    texts += [values["target_base_model"]] if is_translation else []
    texts += [origin["name"] for origin in origins] + [origin.get("commit") or "" for origin in origins]
    texts += [entry["reason"] for entry in values.get("skipped", [])]
    for source in values["adapters"]:
        _check_privacy(source.get("privacy"))
    has_sources = len(values["adapters"]) > 0
    return has_sources and all(isinstance(text, str) for text in texts) and isinstance(values["versions"], dict)


def load_privacy(folder: Path, *, name: str) -> dict[str, Any] | None:
    """Read what a client states of its adapter; None if it states nothing.

    Epsilon, delta and the accountant are always in it; of further keys those that ``gradtx client`` writes: the
    mechanism, what a unit is, ``versions``, and ``total``, the sum over all runs on the same rows.

    Args:
        folder: The adapter's folder.
        name: What messages call the adapter.

    Raises:
        AdapterError: If the statement makes no sense.
        LayoutError: If the file is damaged.
    """
    values = load_record(folder, PRIVACY_FILE, name=name)
    if values is None or set(values) == {"audit"}:  # what was measured, of an adapter of which nothing is stated
        return None
    statement = {key: values.get(key) for key in ("epsilon", "delta", "accountant")}
    further = (*PRIVACY_NUMBERS, *PRIVACY_TEXTS, "total", "versions")
    statement |= {key: values[key] for key in further if key in values}
    try:
        _check_privacy(statement)
    except ValueError as error:
        raise AdapterError(f"{PRIVACY_FILE} of '{name}' {error}. Mend or remove it.") from error
    return statement


def _check_privacy(statement: Mapping[str, Any] | None) -> None:
    if statement is None:
        return
    epsilon, delta, accountant = (statement.get(key) for key in ("epsilon", "delta", "accountant"))
    if not _is_in(epsilon, 0, math.inf) or not _is_in(delta, 0, 1) or not isinstance(accountant, str | None):
        raise ValueError(
            f"states epsilon={epsilon!r:.40}, delta={delta!r:.40}, accountant={accountant!r:.40}; expected "
            "epsilon >= 0, delta in [0, 1) and a name"
        )
    for key in PRIVACY_NUMBERS:
        if key in statement and not _is_in(statement[key], 0, math.inf):
            raise ValueError(f"states {key}={statement[key]!r:.40}, expected a number")
    versions = statement.get("versions", {})
    named = (*versions, *versions.values()) if isinstance(versions, Mapping) else ()
    for value in (accountant or "", *(statement.get(key, "") for key in PRIVACY_TEXTS), *named):
        if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"states {value!r:.40}, expected a short text")
    total = statement.get("total", {"epsilon": 0, "delta": 0, "num_runs": 1})
    is_whole = isinstance(total, Mapping) and isinstance(versions, Mapping)
    if not is_whole or not _is_in(total.get("epsilon"), 0, math.inf) or not _is_in(total.get("num_runs"), 1, math.inf):
        raise ValueError(f"states total={total!r:.60}, versions={versions!r:.60}; expected keys and values")


def privacy_text(statement: Mapping[str, Any] | None) -> str:
    """Return a statement in words; empty for none."""
    if statement is None:
        return ""
    text = f"ε = {statement['epsilon']:.4g} at δ = {statement['delta']:.4g}"
    if statement["accountant"]:
        text += f", accountant {statement['accountant']}"
    if all(key in statement for key in PRIVACY_NUMBERS):
        text += (
            f"; DP-SGD of {statement['num_steps']} steps with noise multiplier {statement['noise_multiplier']:.4g}, "
            f"sample rate {statement['sample_rate']:.4g}, gradients clipped to {statement['max_grad_norm']:.4g}"
        )
    if "unit" in statement:
        text += f"; the unit is {statement['unit']}"
    if "total" in statement:
        total = statement["total"]
        text += (
            f"; over all private runs on these rows that its maker recorded (so far {total['num_runs']}) ε = "
            f"{total['epsilon']:.4g}"
        )
    return text


def _is_in(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high
