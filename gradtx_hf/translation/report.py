"""What a translation says of itself: what was translated, by what, and how far all of it lies from where it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from torch import Tensor

from gradtx_hf.lora import Adapter
from gradtx_hf.translation.aggregation import Aggregation
from gradtx_hf.translation.measured import MeasuredInputs
from gradtx_hf.translation.translated import SourceUpdate


def describe_translation(  # noqa: PLR0913 - one keyword for each thing that took part
    sources: Sequence[SourceUpdate],
    measured: MeasuredInputs,
    *,
    translator: Mapping[str, str | None],
    inits: tuple[Adapter, Adapter],
    tensors: Mapping[str, Tensor],
    aggregation: Aggregation,
    weights: Sequence[float] | None,
    start_distance_limit: float | None,
) -> dict[str, Any]:
    """Return a translation's report, as JSON values.

    Args:
        sources: The adapters that were translated.
        measured: Their input distances.
        translator: Its name and its commit, None where it is not from the Hub.
        inits: Initial adapters of source and target.
        tensors: The factors that came out.
        aggregation: How several updates became one.
        weights: One weight per adapter, or None.
        start_distance_limit: Largest distance to the start that is accepted; None: any.
    """
    source_init, target_init = inits
    return {
        "translator": dict(translator),
        "source_base_model": source_init.base_model,
        "target_base_model": target_init.base_model,
        "aggregation": aggregation,
        "adapters": [
            {
                "name": source.adapter.name,
                "commit": source.commit,
                "weight": None if weights is None else float(weights[i]),
                "update_norm": _update_norm(source.alignment.state, source_init),
                "product_error": source.alignment.product_error,
                "start_distance": source.alignment.start_distance,
                "start_distance_limit": start_distance_limit,
                "input_distance": measured.adapters[i],
                "input_distance_limit": measured.limit,
                "gauge_changed": not source.alignment.is_identity,
                "privacy": source.privacy,
            }
            for i, source in enumerate(sources)
        ],
        "input_distance": measured.aggregate,
        "input_distance_limit": measured.limit,
        "warnings": list(measured.warnings),
        "target_update_norm": _update_norm(tensors, target_init),
        "versions": {package: version(package) for package in ("gradtx-hf", "torch", "transformers", "peft")},
    }


def _update_norm(state: Mapping[str, Tensor], init: Adapter) -> float:
    squares = [float((state[name].double() - init.tensors[name].double()).square().sum()) for name in init.tensors]
    return float(sum(squares) ** 0.5)
