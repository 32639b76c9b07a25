"""Bring several clients' updates into one.

Axes: C clients, M elements of an update. Source: paper Eq. 3 (mean and sum); coordinate-wise median and trimmed mean:
Yin et al. 2018; clipping to a norm before the mean: Sun et al. 2019 (the median norm as the limit is ours); TIES and
DARE: see ``merging``.

The median and the trimmed mean hold out against any updates of fewer than half of the clients, or of as many as are
trimmed at each end. Clipping bounds an update's size alone: one of the usual size that points the other way passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.translation.merging import MERGES, merge_updates


Aggregation = Literal["mean", "sum", "median", "trimmed_mean", "clipped_mean", "ties", "dare_linear", "dare_ties"]
MergePoint = Literal["before", "after"]
UNWEIGHTED = ("median", "trimmed_mean")
OPTIONS = {
    "trim": ("trimmed_mean",),
    "clip_norm": ("clipped_mean",),
    "density": ("ties", "dare_linear", "dare_ties"),
    "seed": ("dare_linear", "dare_ties"),
}
"""Option to the rules that it goes with."""
TRIMMED_SHARE = 0.2
"""Default share of the clients left out at each end of every coordinate; at least one of three or more."""
DENSITY = 0.5
"""Default share of the elements that TIES and DARE keep; ours: PEFT has no default."""


@dataclass(frozen=True)
class AggregationSettings:
    """How several updates become one.

    Attributes:
        rule: ``mean`` or ``sum`` (paper Eq. 3); ``median`` or ``trimmed_mean`` of every coordinate; ``clipped_mean``,
            the mean after each update was shortened to a norm; ``ties``, ``dare_linear`` or ``dare_ties`` as PEFT does.
        trim: For ``trimmed_mean``, what is left out at each end: a share of the clients in [0, 0.5), or a whole number
            of them; None: ``TRIMMED_SHARE``.
        clip_norm: For ``clipped_mean``, the norm, positive; None: the clients' median norm, of an even number the lower
            of the middle two.
        density: For TIES and DARE, the share of its elements that each update keeps, in (0, 1); None: ``DENSITY``.
        seed: For DARE, the seed of the elements that are dropped; None: 0.
        merge: ``before``: the source updates are aggregated, then translated once. ``after``: each is translated, then
            the target updates are aggregated.
    """

    rule: Aggregation = "mean"
    trim: float | None = None
    clip_norm: float | None = None
    density: float | None = None
    seed: int | None = None
    merge: MergePoint = "before"

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If there is no such rule, an option does not go with it, or is out of its range.
        """
        for name, value, known in (
            ("aggregation", self.rule, get_args(Aggregation)),
            ("merge", self.merge, get_args(MergePoint)),
        ):
            if value not in known:
                raise ConfigurationError(f"got {name} {value!r}, expected one of {', '.join(known)}.")
        for name, rules in OPTIONS.items():
            if getattr(self, name) is not None and self.rule not in rules:
                raise ConfigurationError(f"{name} goes with {' and '.join(rules)}, not with {self.rule}. Leave it out.")
        if self.trim is not None and not (0 <= self.trim < 0.5 or (self.trim >= 1 and float(self.trim).is_integer())):
            raise ConfigurationError(
                f"got trim={self.trim}, expected a share of the clients in [0, 0.5) or a whole number of them."
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ConfigurationError(f"got clip_norm={self.clip_norm}, expected a positive number.")
        if self.density is not None and not 0 < self.density < 1:
            raise ConfigurationError(f"got density={self.density}, expected a share in (0, 1).")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigurationError(f"got seed={self.seed}, expected 0 or more.")

    @classmethod
    def of(cls, aggregation: Aggregation | AggregationSettings) -> AggregationSettings:
        """Return the settings, or those of a rule with its defaults."""
        return aggregation if isinstance(aggregation, AggregationSettings) else cls(aggregation)

    def num_trimmed(self, num_clients: int) -> int:
        """Return how many clients are left out at each end of every coordinate.

        Raises:
            ConfigurationError: If that leaves nobody.
        """
        trim = TRIMMED_SHARE if self.trim is None else self.trim
        if trim >= 1:
            if 2 * trim >= num_clients:
                raise ConfigurationError(
                    f"got trim={int(trim)} for {num_clients} adapters: nothing would be left between both ends. "
                    f"Trim at most {(num_clients - 1) // 2}, or give a share such as 0.2."
                )
            return int(trim)
        return max(1, int(num_clients * trim + 1e-9)) if num_clients >= 3 and trim > 0 else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the options that took part, defaults among them; ``clip_norm`` null: the median norm."""
        defaults = {"trim": TRIMMED_SHARE, "clip_norm": None, "density": DENSITY, "seed": 0}
        used = {name: default for name, default in defaults.items() if self.rule in OPTIONS[name]}
        given = {name: getattr(self, name) for name in used if getattr(self, name) is not None}
        return {"merge": self.merge} | used | given


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What several updates came to.

    Attributes:
        values: One update, in the shape of one client's.
        shares: Part of each client's own update that is in it: the mean over all elements of the factor that the
            client's value has there. They sum to 1 but for ``sum``, and for ``clipped_mean`` where updates were
            shortened. For TIES and DARE the shares that were asked for.
    """

    values: Tensor
    shares: tuple[float, ...]


def aggregate_updates(
    tokens: Tensor,
    *,
    aggregation: Aggregation | AggregationSettings = "mean",
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the aggregate alone; see ``aggregate_with_shares``."""
    return aggregate_with_shares(tokens, aggregation=aggregation, weights=weights).values


def aggregate_with_shares(
    tokens: Tensor,
    *,
    aggregation: Aggregation | AggregationSettings = "mean",
    weights: Sequence[float] | None = None,
) -> Aggregate:
    """Aggregate clients' updates.

    Args:
        tokens: ``[C, ...]``, without padding where the rule is one that drops the smallest elements.
        aggregation: The rule, or all settings.
        weights: One weight per client, each >= 0: numbers of samples, or any others. Divided by their sum, but for
            ``sum``. The median and the trimmed mean have none.

    Raises:
        ConfigurationError: If there is no such rule, or the weights or the options do not fit.
    """
    settings = AggregationSettings.of(aggregation)
    factors = check_weights(weights, num_clients=len(tokens), rule=settings.rule).to(tokens)
    updates = tokens.flatten(1)  # [C, M]
    if settings.rule in UNWEIGHTED:
        num_clients = len(updates)
        num_trimmed = (num_clients - 1) // 2 if settings.rule == "median" else settings.num_trimmed(num_clients)
        values, shares = _middle(updates, num_trimmed)
    elif settings.rule in MERGES:
        options = settings.to_dict()
        values = merge_updates(
            updates, factors, method=settings.rule, density=options["density"], seed=options.get("seed", 0)
        )
        shares = factors
    else:
        shares = factors * _shortening(updates, settings) if settings.rule == "clipped_mean" else factors
        values = updates.mean(0) if settings.rule == "mean" and weights is None else (updates * shares[:, None]).sum(0)
    return Aggregate(values.reshape(tokens.shape[1:]), tuple(shares.tolist()))


def parse_weights(text: str) -> list[float]:
    """Read weights with commas between, such as ``0.7,0.3``.

    Raises:
        ConfigurationError: If they are no numbers.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(
            f"got weights {text!r}, expected numbers with commas between, such as 0.7,0.3."
        ) from error


def check_weights(weights: Sequence[float] | None, *, num_clients: int, rule: Aggregation) -> Tensor:
    """Return the factor of each client, ``[C]`` float64: the weights divided by their sum, but for ``sum``.

    Args:
        weights: One weight per client, or None for equal ones.
        num_clients: Number of clients.
        rule: The rule that they are for.

    Raises:
        ConfigurationError: If they do not fit.
    """
    if weights is None:
        return torch.full((num_clients,), 1 if rule == "sum" else 1 / num_clients, dtype=torch.float64)
    if rule in UNWEIGHTED:
        raise ConfigurationError(f"weights do not go with {rule}, which takes all clients alike. Leave them out.")
    if len(weights) != num_clients:
        raise ConfigurationError(f"got {len(weights)} weights for {num_clients} adapters, expected one each.")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ConfigurationError(f"got weights {list(weights)}, expected finite values >= 0, not all zero.")
    factors = torch.tensor(list(weights), dtype=torch.float64)
    return factors if rule == "sum" else factors / factors.sum()


def _middle(updates: Tensor, num_trimmed: int) -> tuple[Tensor, Tensor]:
    """Return the mean ``[M]`` of what lies between both ends of every coordinate, and each client's share ``[C]``.

    Clients of one value share its place; torch.quantile would take 2^24 elements at most.
    """
    kept = updates.sort(dim=0).values[num_trimmed : len(updates) - num_trimmed]
    is_inside = (updates >= kept[0]) & (updates <= kept[-1])
    return kept.mean(0), (is_inside / is_inside.sum(0)).mean(1, dtype=torch.float64)


def _shortening(updates: Tensor, settings: AggregationSettings) -> Tensor:
    """Return the factors ``[C]``, at most 1, that bring each update's norm to the limit."""
    norms = updates.double().norm(dim=1)
    limit = norms.median() if settings.clip_norm is None else norms.new_tensor(settings.clip_norm)
    factors: Tensor = (limit / norms.clamp_min(1e-300)).clamp(max=1).to(updates)
    return factors
