"""``gradtx client``: fine-tune the source model on private data, from a translator's source_init."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.client import ClientArguments, fine_tune_client


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse_into(ClientArguments, argv, command="client", description=(__doc__ or "").strip())
    result = fine_tune_client(
        arguments.init,
        arguments.data_source,
        recipe=arguments.fine_tuning_recipe,
        output_dir=arguments.output_dir,
        base_model=arguments.base_model,
        seed=arguments.seed,
        show_progress=True,
    )
    print(json.dumps({"adapter": str(arguments.output_dir)} | asdict(result)))
    print(f"next: gradtx inspect {arguments.output_dir}   # what would leave the house", file=sys.stderr)
    return 0
