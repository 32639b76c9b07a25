"""``gradtx translate``: one client's adapter, or several aggregated, into one adapter of the target model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from gradtx_hf.cli.aggregation import add_aggregation_flags, print_notes, settings_of, weights_of
from gradtx_hf.hub import Destination
from gradtx_hf.hub.cards import license_metadata
from gradtx_hf.output import require_new_folder
from gradtx_hf.playground import local_name
from gradtx_hf.translation import MergePoint, PeftTranslator


DTYPES: dict[str, torch.dtype | Literal["auto"]] = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx translate", description=(__doc__ or "").strip())
    add_aggregation_flags(parser)
    parser.add_argument(
        "--merge", choices=get_args(MergePoint), default="before", help="aggregate before translating, or after"
    )
    parser.add_argument("--translator", required=True, help="folder, or Hub repository 'owner/name[@revision]'")
    parser.add_argument("--output-dir", required=True, help="new folder for the translated adapter")
    parser.add_argument("--revision", help="branch, tag or commit of the translator's repository")
    parser.add_argument("--cache-dir", help="where what is fetched from the Hub is kept; by default the Hub's cache")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="auto",
        help="number format of the large products: as saved, or one of these (float16: fast on a CPU)",
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="publish the result as 'owner/name', with its card")
    parser.add_argument("--public", action="store_true", help="a new repository is public; else it is private")
    parser.add_argument("--license", help="license of what is published, as the Hub names it; by default none is said")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(list(argv))
    settings, weights = settings_of(arguments, merge=arguments.merge), weights_of(arguments)
    require_new_folder(arguments.output_dir)
    if arguments.push_to_hub is not None:
        Destination(arguments.push_to_hub)  # refuses what is no id before the work, as the next line does
        license_metadata(arguments.license)
    translator = PeftTranslator.from_pretrained(
        arguments.translator,
        revision=arguments.revision,
        cache_dir=arguments.cache_dir,
        dtype=DTYPES[arguments.dtype],
    )
    translated = translator.translate(
        arguments.adapters,
        aggregation=settings,
        weights=weights,
        skip_invalid=arguments.skip_invalid,
        cache_dir=arguments.cache_dir,
        allow_other_start=arguments.allow_other_start,
        allow_other_base=arguments.allow_other_base,
    )
    translated.save_pretrained(arguments.output_dir)
    print(json.dumps(translated.report, indent=2) if arguments.json else arguments.output_dir)
    print_notes(translated.report)
    print(
        f"load it with: PeftModel.from_pretrained(model, {arguments.output_dir!r})"
        f"  # model: {local_name(translated.report['target_base_model'])}",
        file=sys.stderr,
    )
    if arguments.push_to_hub is not None:
        published = translated.push_to_hub(
            arguments.push_to_hub, private=not arguments.public, license_id=arguments.license
        )
        print(f"published: {published.url} at commit {published.commit}", file=sys.stderr)
    return 0
