"""The flags by which several clients' adapters become one, of ``gradtx translate`` and ``gradtx aggregate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from gradtx_hf.errors import safe_text
from gradtx_hf.translation import Aggregation, AggregationSettings, MergePoint
from gradtx_hf.translation.aggregation import parse_weights


def add_aggregation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the adapters and of their aggregation."""
    parser.add_argument(
        "adapters", nargs="+", metavar="ADAPTER", help="folders, or Hub repositories 'owner/name[@revision]'"
    )
    parser.add_argument("--aggregation", choices=get_args(Aggregation), default="mean", help="how several become one")
    parser.add_argument(
        "--weights", help="one per adapter, such as 0.7,0.3 or numbers of samples; not for median and trimmed_mean"
    )
    parser.add_argument(
        "--trim", type=float, help="for trimmed_mean: share of the clients left out at each end (0.2), or how many"
    )
    parser.add_argument("--clip-norm", type=float, help="for clipped_mean: the norm (the clients' median norm)")
    parser.add_argument("--density", type=float, help="for ties and dare: share of the elements that is kept (0.5)")
    parser.add_argument("--seed", type=int, help="for dare: seed of what is dropped (0)")
    parser.add_argument("--skip-invalid", action="store_true", help="leave out adapters that are refused, and say so")
    parser.add_argument(
        "--allow-other-start", action="store_true", help="accept an adapter not trained from source_init"
    )
    parser.add_argument("--allow-other-base", action="store_true", help="accept a base model of another name")


def settings_of(arguments: argparse.Namespace, *, merge: MergePoint = "before") -> AggregationSettings:
    """Return the settings of parsed flags.

    Args:
        arguments: The flags.
        merge: Whether to aggregate before or after translation.

    Raises:
        ConfigurationError: If they do not go together.
    """
    return AggregationSettings(
        rule=arguments.aggregation,
        trim=arguments.trim,
        clip_norm=arguments.clip_norm,
        density=arguments.density,
        seed=arguments.seed,
        merge=merge,
    )


def weights_of(arguments: argparse.Namespace) -> list[float] | None:
    """Return the weights of parsed flags.

    Raises:
        ConfigurationError: If they are no numbers.
    """
    return None if arguments.weights is None else parse_weights(arguments.weights)


def source_notes(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each client of a report: its distances and, among several, its part in the aggregate."""
    notes = []
    for source in sources:
        note = f"{source['name']}: distance to the translator's start {source['start_distance']:.2f}"
        note += f", product error {source['product_error']:.1e}" if source["product_error"] > 1e-6 else ""
        if source.get("input_distance") is not None:
            note += f", input distance {source['input_distance']:.3g} (limit {source['input_distance_limit']:.3g})"
        if len(sources) > 1:
            note += (
                f", share {source['share']:.3g}, norm {source['update_norm']:.3g}, cosine to the aggregate "
                f"{source['cosine_to_aggregate']:.2f}, distance to the others {source['distance_to_others']:.3g}"
            )
        notes.append(note)
    return notes


def print_notes(report: Mapping[str, Any]) -> None:
    """Print a report's notes and warnings to standard error."""
    for note in source_notes(report["adapters"]):
        print(safe_text(note), file=sys.stderr)
    for warning in report["warnings"]:
        print(f"warning: {safe_text(warning)}", file=sys.stderr)
