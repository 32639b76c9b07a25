"""What a translation says of itself: what was translated, by what, and how far all of it lies from where it should."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor

from gradtx_hf.lora import Adapter
from gradtx_hf.translation.aggregation import AggregationSettings
from gradtx_hf.translation.contributions import Combined
from gradtx_hf.translation.measured import MeasuredInputs
from gradtx_hf.translation.reading import ReadSources


def describe_translation(  # noqa: PLR0913 - one keyword for each thing that took part
    read: ReadSources,
    combined: Combined,
    measured: MeasuredInputs,
    *,
    translator: Mapping[str, str | None],
    inits: tuple[Adapter, Adapter],
    tensors: Mapping[str, Tensor],
    settings: AggregationSettings,
    start_distance_limit: float | None,
) -> dict[str, Any]:
    """Return a translation's report, as JSON values.

    Args:
        read: The adapters that were translated, and those that were left out.
        combined: Their updates, or their targets', as one.
        measured: Their input distances.
        translator: Its name and its commit, None where it is not from the Hub.
        inits: Initial adapters of source and target.
        tensors: The factors that came out.
        settings: How several updates became one.
        start_distance_limit: Largest distance to the start that is accepted; None: any.
    """
    source_init, target_init = inits
    return {
        "translator": dict(translator),
        "source_base_model": source_init.base_model,
        "target_base_model": target_init.base_model,
        "aggregation": settings.rule,
        "aggregation_settings": settings.to_dict(),
        "adapters": [
            source
            | {
                "start_distance_limit": start_distance_limit,
                "input_distance": input_distance,
                "input_distance_limit": measured.limit,
            }
            for source, input_distance in zip(
                describe_sources(read, combined, source_init), measured.adapters, strict=True
            )
        ],
        "skipped": describe_skipped(read),
        "input_distance": measured.aggregate,
        "input_distance_limit": measured.limit,
        "warnings": [*read.warnings, *combined.warnings, *measured.warnings],
        "target_update_norm": _update_norm(tensors, target_init),
        "versions": describe_versions(),
    }


def describe_sources(read: ReadSources, combined: Combined, init: Adapter) -> list[dict[str, Any]]:
    """Return what each client sent, and what it has to do with the aggregate, as JSON values.

    Args:
        read: The clients.
        combined: Their updates, or their targets', as one.
        init: Where they began.
    """
    weights = read.weights or (None,) * len(read.sources)
    return [
        {
            "name": source.adapter.name,
            "commit": source.commit,
            "weight": weight,
            "share": contribution.share,
            "update_norm": _update_norm(source.alignment.state, init),
            "cosine_to_aggregate": contribution.cosine,
            "distance_to_others": contribution.distance,
            "product_error": source.alignment.product_error,
            "start_distance": source.alignment.start_distance,
            "gauge_changed": not source.alignment.is_identity,
            "privacy": source.privacy,
        }
        for source, contribution, weight in zip(read.sources, combined.contributions, weights, strict=True)
    ]


def describe_skipped(read: ReadSources) -> list[dict[str, str | None]]:
    """Return the adapters that were left out, as JSON values."""
    return [{"name": skipped.name, "commit": skipped.commit, "reason": skipped.reason} for skipped in read.skipped]


def describe_versions() -> dict[str, str]:
    """Return the versions of the packages that took part."""
    return {package: version(package) for package in ("gradtx-hf", "torch", "transformers", "peft")}


def _update_norm(state: Mapping[str, Tensor], init: Adapter) -> float:
    squares = [float((state[name].double() - init.tensors[name].double()).square().sum()) for name in init.tensors]
    return float(sum(squares) ** 0.5)
