"""What a private run is told, and what it states afterwards: PrivacySettings and PrivacyStatement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.accounting import ACCOUNTANT, NoisySteps


ClippingMode = Literal["ghost", "per_sample"]
USUAL_DELTA = 1e-5
"""What the paper takes (appendix)."""
UNIT = (
    "one row of the data (one piece, where texts are cut), added or removed; the number of rows, the initial adapter "
    "and the recipe are taken as public"
)
SAMPLING = "Poisson: every row is in a step with the sample rate, independently"
RANDOMNESS = (
    "sampling, noise and dropout from the operating system's randomness, never from a seed that is known; the noise is "
    "rounded to floating point without measures against attacks on its last bits (no secure RNG library)"
)


@dataclass(frozen=True)
class PrivacySettings:
    """How private a run is to be: a budget, for which the noise is found, or the noise, for which the budget is.

    Attributes:
        epsilon: What the run may spend, in [0.01, 100].
        noise_multiplier: Standard deviation of the noise over ``max_grad_norm``.
        delta: Probability that epsilon may not hold, below 1 / rows; None takes 1e-5 (paper), or 1 / (n ln n) of n rows
            if that is less.
        max_grad_norm: Norm C that every row's gradient is clipped to. 1 is ours.
        clipping: ``per_sample`` holds the gradient of every row of a forward pass, which for adapters is little, and
            goes with a model of any type; ``ghost`` holds none, runs a second backward pass, and needs float32.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    max_grad_norm: float = 1.0
    clipping: ClippingMode = "per_sample"

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If one is out of its range, or the budget and the noise are both given, or neither.
        """
        for name in ("epsilon", "noise_multiplier", "delta", "max_grad_norm"):
            value = getattr(self, name)
            if value is None and name != "max_grad_norm":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigurationError(f"got privacy {name}={value!r}, expected a positive number.")
        if (self.epsilon is None) == (self.noise_multiplier is None):
            got = "neither" if self.epsilon is None else "both"
            raise ConfigurationError(
                f"got {got} of privacy epsilon and noise_multiplier, expected one: the other is found for it."
            )
        if self.clipping not in get_args(ClippingMode):
            raise ConfigurationError(f"got privacy clipping={self.clipping!r}, expected 'ghost' or 'per_sample'.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrivacySettings:
        """Build settings from configuration values; a number may be text.

        Raises:
            ConfigurationError: If a key is unknown, or a value is of another type or out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigurationError(f"got unknown privacy key '{name}', expected any of {', '.join(known)}.")
        return cls(**{name: _number(value) for name, value in values.items()})

    def delta_for(self, num_rows: int) -> float:
        """Return delta for data of so many rows.

        Raises:
            ConfigurationError: If the given one is 1 / rows or more, which would allow giving a row away.
        """
        if self.delta is None:
            return min(USUAL_DELTA, 1 / (num_rows * math.log(num_rows))) if num_rows > 1 else USUAL_DELTA
        if self.delta >= 1 / num_rows:
            raise ConfigurationError(
                f"got privacy delta={self.delta:g} for {num_rows} rows, expected less than {1 / num_rows:g}, one by "
                "the rows: a larger one would allow giving a whole row away."
            )
        return self.delta


@dataclass(frozen=True)
class PrivacyStatement:
    """What one private run spent, and by which mechanism.

    Attributes:
        epsilon: What it spent, an upper bound.
        delta: Probability that epsilon may not hold.
        steps: Noise, sample rate and steps.
        expected_batch_size: Rows per step on average.
        max_grad_norm: Norm C that every row's gradient was clipped to.
        clipping: How norms were found.
    """

    epsilon: float
    delta: float
    steps: NoisySteps
    expected_batch_size: int
    max_grad_norm: float
    clipping: ClippingMode

    def to_dict(self) -> dict[str, Any]:
        """Return all that a reader needs to judge the statement, as JSON values."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accountant": ACCOUNTANT,
            "noise_multiplier": self.steps.noise_multiplier,
            "sample_rate": self.steps.sample_rate,
            "num_steps": self.steps.num_steps,
            "expected_batch_size": self.expected_batch_size,
            "max_grad_norm": self.max_grad_norm,
            "clipping": self.clipping,
            "unit": UNIT,
            "sampling": SAMPLING,
            "randomness": RANDOMNESS,
        }


def _number(value: Any) -> Any:  # noqa: ANN401 - any configuration value
    """Return a text that stands for a number as one, and all else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
