"""``gradtx translate``: one client's adapter, or several aggregated, into one adapter of the target model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import get_args

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.hub import Destination
from gradtx_hf.output import require_new_folder
from gradtx_hf.playground import local_name
from gradtx_hf.translation import Aggregation, PeftTranslator, TranslatedAdapter


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx translate", description=(__doc__ or "").strip())
    parser.add_argument(
        "adapters", nargs="+", metavar="ADAPTER", help="folders, or Hub repositories 'owner/name[@revision]'"
    )
    parser.add_argument("--translator", required=True, help="folder, or Hub repository 'owner/name[@revision]'")
    parser.add_argument("--output-dir", required=True, help="new folder for the translated adapter")
    parser.add_argument("--aggregation", choices=get_args(Aggregation), default="mean", help="how several become one")
    parser.add_argument("--weights", help="one per adapter, such as 0.7,0.3; for mean and sum")
    parser.add_argument("--revision", help="branch, tag or commit of the translator's repository")
    parser.add_argument(
        "--allow-other-start", action="store_true", help="accept an adapter not trained from source_init"
    )
    parser.add_argument("--allow-other-base", action="store_true", help="accept a base model of another name")
    parser.add_argument("--push-to-hub", metavar="REPO", help="publish the result as 'owner/name', with its card")
    parser.add_argument("--public", action="store_true", help="a new repository is public; else it is private")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(list(argv))
    weights = None if arguments.weights is None else _parse_weights(arguments.weights)
    require_new_folder(arguments.output_dir)
    if arguments.push_to_hub is not None:
        Destination(arguments.push_to_hub)  # refuses what is no id before the work
    translator = PeftTranslator.from_pretrained(arguments.translator, revision=arguments.revision)
    translated = translator.translate(
        arguments.adapters,
        aggregation=arguments.aggregation,
        weights=weights,
        allow_other_start=arguments.allow_other_start,
        allow_other_base=arguments.allow_other_base,
    )
    translated.save_pretrained(arguments.output_dir)
    print(json.dumps(translated.report, indent=2) if arguments.json else arguments.output_dir)
    _print_notes(translated, arguments.output_dir)
    if arguments.push_to_hub is not None:
        published = translated.push_to_hub(arguments.push_to_hub, private=not arguments.public)
        print(f"published: {published.url} at commit {published.commit}", file=sys.stderr)
    return 0


def _print_notes(translated: TranslatedAdapter, folder: str) -> None:
    for adapter in translated.report["adapters"]:
        note = f"{adapter['name']}: distance to the translator's start {adapter['start_distance']:.2f}"
        note += f", product error {adapter['product_error']:.1e}" if adapter["product_error"] > 1e-6 else ""
        if adapter["input_distance"] is not None:
            note += f", input distance {adapter['input_distance']:.3g} (limit {adapter['input_distance_limit']:.3g})"
        print(note, file=sys.stderr)
    for warning in translated.report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"load it with: PeftModel.from_pretrained(model, {folder!r})"
        f"  # model: {local_name(translated.report['target_base_model'])}",
        file=sys.stderr,
    )


def _parse_weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(
            f"got weights {text!r}, expected numbers with commas between, such as 0.7,0.3."
        ) from error
