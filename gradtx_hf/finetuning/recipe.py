"""FineTuningRecipe: every number that determines one fine-tuning run, apart from its data and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_type_hints

from gradtx_hf.errors import ConfigurationError


Schedule = Literal["linear", "constant"]
TRUTHS = {"true": True, "false": False}
Numbers = tuple[float, ...]
EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", Numbers: "a list of numbers"}


@dataclass(frozen=True)
class FineTuningRecipe:
    """How one adapter is fine-tuned: AdamW on batches drawn without replacement, epoch by epoch.

    Attributes:
        num_steps: Optimizer steps; the most there are if ``until_converged``.
        batch_size: Examples per forward pass.
        learning_rate: Peak learning rate of AdamW.
        gradient_accumulation_steps: Forward passes per optimizer step.
        schedule: ``linear`` falls to ``final_learning_rate_share`` at ``num_steps``; ``constant`` stays.
        final_learning_rate_share: Share of the peak that a linear schedule ends at, in [0, 1).
        warmup_steps: Steps of linear rise from 0, before either schedule.
        weight_decay: AdamW's decoupled weight decay; 0.01 (paper, appendix).
        max_grad_norm: Norm that gradients are clipped to; 0 turns clipping off.
        max_length: Most tokens per example.
        until_converged: Stop once the mean loss no longer improves.
        convergence_window: Steps per mean.
        convergence_threshold: Least relative improvement over the window before, in (0, 1).
        convergence_patience: Windows in a row without that improvement before the run stops.
        num_parts: Parts that a client's data are divided into, with a run on each; the adapter is their mean. Shadow
            runs have 1.
        row_noise: For the shadow runs of a translator for private clients: standard deviations of Gaussian noise on the
            sum of a step's gradients, where each row's is clipped to ``max_grad_norm``, in units of that norm, as
            DP-SGD adds it. Each run takes one of them, by its seed. No guarantee comes of it; empty: no noise.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    gradient_accumulation_steps: int = 1
    schedule: Schedule = "linear"
    final_learning_rate_share: float = 0.1
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length: int = 512
    until_converged: bool = False
    convergence_window: int = 20
    convergence_threshold: float = 0.01
    convergence_patience: int = 3
    num_parts: int = 1
    row_noise: Numbers = ()

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        for name in (
            "num_steps",
            "batch_size",
            "gradient_accumulation_steps",
            "convergence_window",
            "convergence_patience",
            "num_parts",
        ):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "max_length", self.max_length >= 2, "at least 2 tokens")
        _require(self, "learning_rate", 0 < self.learning_rate < math.inf, "a positive number")
        _require(self, "schedule", self.schedule in ("linear", "constant"), "'linear' or 'constant'")
        _require(self, "final_learning_rate_share", 0 <= self.final_learning_rate_share < 1, "a share in [0, 1)")
        _require(self, "convergence_threshold", 0 < self.convergence_threshold < 1, "a share in (0, 1)")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        _require(self, "warmup_steps", self.warmup_steps < self.num_steps, f"less than num_steps={self.num_steps}")
        _require(self, "row_noise", all(0 <= noise < math.inf for noise in self.row_noise), "numbers of 0 or more")
        if self.row_noise and not self.max_grad_norm:
            raise ConfigurationError("got max_grad_norm=0 with row_noise, whose unit it is. Set the norm of a row.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FineTuningRecipe:
        """Build a recipe from configuration values; a number or a truth value may be text.

        Raises:
            ConfigurationError: If a key is unknown, a required one is missing, or a value is of another type or out of
                range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigurationError(
                f"got unknown recipe key '{unknown[0]}', expected any of {', '.join(sorted(known))}."
            )
        missing = [name for name in ("num_steps", "batch_size", "learning_rate") if name not in values]
        if missing:
            raise ConfigurationError(f"the fine-tuning recipe lacks '{missing[0]}'. Add it.")
        kinds = get_type_hints(cls)
        return cls(**{name: _fit(value, kinds[name], name) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return all values, for configuration files and plans."""
        return asdict(self) | {"row_noise": list(self.row_noise)}


def _fit(value: Any, kind: Any, name: str) -> Any:  # noqa: ANN401 - any configuration value and its field's type
    """Bring a value to its field's type, where it stands for one of that type and nothing is lost."""
    is_number = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    try:
        if kind is bool:
            return value if isinstance(value, bool) else TRUTHS[value.lower()]
        if kind is int and is_number:
            return value if isinstance(value, int) else _whole(value)
        if kind is float and is_number:
            return float(value)
        if kind is Schedule and isinstance(value, str):
            return value
        if kind == Numbers and isinstance(value, list | tuple):
            return tuple(_fit(item, float, name) for item in value)
    except (AttributeError, KeyError, ValueError, OverflowError):
        pass
    raise ConfigurationError(f"got {name}={value!r} in a recipe, expected {EXPECTED.get(kind, 'text')}.")


def _whole(value: str | float) -> int:
    """Return a whole number; 1e3 is one, 8.5 is none."""
    try:
        return int(str(value))
    except ValueError:
        number = float(value)
        if not number.is_integer():
            raise
        return int(number)


def _require(recipe: FineTuningRecipe, name: str, is_met: bool, expected: str) -> None:  # noqa: FBT001 - private
    if not is_met:
        raise ConfigurationError(f"got {name}={getattr(recipe, name)!r}, expected {expected}.")
