"""``gradtx aggregate``: several clients' adapters into one adapter of the source model; no translator is applied."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gradtx_hf.cli.aggregation import add_aggregation_flags, print_notes, settings_of, weights_of
from gradtx_hf.hub import resolve_folder
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import require_new_folder
from gradtx_hf.translation import SOURCE_INIT, ClientStart, PeftTranslator, ReadingOptions, aggregate_adapters


START_DISTANCE_LIMIT = 0.75
"""Largest distance to the start where no translator gives one: a client's of that start lay at 0.2, others from 0.9."""


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx aggregate", description=(__doc__ or "").strip())
    add_aggregation_flags(parser)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--translator", help="folder, or Hub repository, whose source_init the clients began from")
    start.add_argument("--init", help="folder, or Hub repository, of the initial adapter itself")
    parser.add_argument("--revision", help="branch, tag or commit of the translator's or initial adapter's repository")
    parser.add_argument("--output-dir", required=True, help="new folder for the aggregated adapter")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(list(argv))
    settings, weights = settings_of(arguments), weights_of(arguments)
    require_new_folder(arguments.output_dir)
    aggregated = aggregate_adapters(
        arguments.adapters,
        _start(arguments),
        aggregation=settings,
        weights=weights,
        skip_invalid=arguments.skip_invalid,
        options=ReadingOptions(
            allow_other_start=arguments.allow_other_start, allow_other_base=arguments.allow_other_base
        ),
    )
    aggregated.save_pretrained(arguments.output_dir)
    print(json.dumps(aggregated.report, indent=2) if arguments.json else arguments.output_dir)
    print_notes(aggregated.report)
    print(f"next: gradtx translate {arguments.output_dir} --translator {_name(arguments)}", file=sys.stderr)
    return 0


def _start(arguments: argparse.Namespace) -> ClientStart:
    if arguments.translator is not None:
        return PeftTranslator.from_pretrained(arguments.translator, revision=arguments.revision).start
    resolved = resolve_folder(arguments.init, revision=arguments.revision)
    return ClientStart(load_adapter(resolved.path, name=resolved.name), _name(arguments), START_DISTANCE_LIMIT)


def _name(arguments: argparse.Namespace) -> str:
    """Return what messages call the translator; one's ``source_init`` lies in its folder."""
    if arguments.translator is not None:
        return str(arguments.translator)
    init = Path(arguments.init)
    return str(init.parent if init.name == SOURCE_INIT else init)
