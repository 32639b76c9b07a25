"""``gradtx curate``: fine-tune source and target on shadow sets of public data, into a store of update pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.curation import CurationArguments, curate


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments, is_json = parse_into(CurationArguments, argv, command="curate", description=(__doc__ or "").strip())
    store = curate(arguments)
    if arguments.plan_only or arguments.share is not None:
        print(
            json.dumps({"store": str(arguments.output_dir)}, indent=2) if is_json else f"store: {arguments.output_dir}"
        )
        print(
            f"next: {'the same with --share i/n' if arguments.plan_only else 'the same without --share'}",
            file=sys.stderr,
        )
        return 0
    values = {
        "store": str(arguments.output_dir),
        "shadow_sets": store.num_shadow_sets,
        "target_runs": len(store.shadow_sets("target")),
        "pairs": len(store.pairs),
    }
    if is_json:
        print(json.dumps(values, indent=2))
    else:
        print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in values.items()))
    print(f"next: gradtx train --store {arguments.output_dir} --output-dir TRANSLATOR", file=sys.stderr)
    return 0
