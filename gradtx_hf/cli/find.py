"""``gradtx find``: the translators on the Hub for a base model, those measured on unseen tasks and best first."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from gradtx_hf.hub import FoundTranslator, find_translators
from gradtx_hf.hub.wording import endpoint_name


HEAD = ("repository", "source → target", "gain recovered", "measured on", "score", "changed", "access")


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="gradtx find",
        description=(__doc__ or "").strip(),
        epilog="Order: measured on unseen tasks, on all, on seen tasks, not measured; within each the largest gain "
        "recovered, then the newest. The gain is the share of the gap between untouched target and ceiling that "
        "translated adapters recover, as each card states it. Private translators are listed to whoever is logged in "
        "(HF_TOKEN, or hf auth login).",
    )
    parser.add_argument("--source", required=True, metavar="BASE", help="id on the Hub of your adapters' base model")
    parser.add_argument("--target", metavar="BASE", help="id on the Hub of the model that you want adapters for")
    parser.add_argument("--limit", type=int, default=20, help="how many at most (20)")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    arguments = parser.parse_args(list(argv))
    found = find_translators(arguments.source, arguments.target, limit=arguments.limit)
    if arguments.json:
        print(json.dumps([translator.to_json() for translator in found], indent=2))
    elif found:
        print(_table([HEAD, *map(_cells, found)]))
    _print_notes(found, source=arguments.source, target=arguments.target)
    return 0


def _print_notes(found: Sequence[FoundTranslator], *, source: str, target: str | None) -> None:
    if not found:
        pair = f"'{source}'" if target is None else f"'{source}' → '{target}'"
        print(f"no translator for {pair} at {endpoint_name()}. Train one: gradtx curate, gradtx train", file=sys.stderr)
        return
    print("note: the numbers are what the cards state; compare those measured on the same data", file=sys.stderr)
    print(
        f"next: gradtx translate ADAPTER --translator {found[0].repo_id} --output-dir TRANSLATED"
        f"  # ADAPTER: trained from {found[0].repo_id}/source_init",
        file=sys.stderr,
    )


def _cells(translator: FoundTranslator) -> tuple[str, ...]:
    measured, changed = translator.measured, translator.last_modified
    score = "-" if measured is None or measured.score is None else f"{measured.metric} {measured.score:.4g}"
    return (
        translator.repo_id,
        f"{translator.source} → {translator.target}",
        "not measured" if measured is None else f"{measured.gain_recovered:.4g}",
        "-" if measured is None else measured.dataset,
        score,
        "-" if changed is None else f"{changed:%Y-%m-%d}",
        "private" if translator.is_private else "gated" if translator.is_gated else "public",
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
