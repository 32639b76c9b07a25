"""``gradtx client``: fine-tune the source model on private data, from a translator or its source_init."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.client import ClientArguments, fine_tune_client


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments, is_json = parse_into(ClientArguments, argv, command="client", description=(__doc__ or "").strip())
    result = fine_tune_client(
        arguments.init,
        arguments.data_source,
        recipe=arguments.fine_tuning_recipe,
        output_dir=arguments.output_dir,
        base_model=arguments.base_model,
        seed=arguments.seed,
        show_progress=True,
    )
    if is_json:
        print(json.dumps({"adapter": str(arguments.output_dir)} | asdict(result), indent=2))
    else:
        print(f"adapter: {arguments.output_dir}\nsteps: {result.num_steps}\nloss: {result.final_loss:.4g}")
    print(f"next: gradtx inspect {arguments.output_dir}   # what would leave the house", file=sys.stderr)
    return 0
