"""``gradtx client``: fine-tune the source model on private data, from a translator or its source_init."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.client import ClientArguments, ClientResult, fine_tune_client


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
        privacy=arguments.privacy_settings,
        work_dir=arguments.work_dir,
        show_progress=True,
    )
    if is_json:
        print(json.dumps({"adapter": str(arguments.output_dir)} | asdict(result), indent=2))
    else:
        print("\n".join(_lines(arguments.output_dir, result)))
    print(f"next: gradtx inspect {arguments.output_dir}   # what would leave the house", file=sys.stderr)
    return 0


def _lines(folder: str, result: ClientResult) -> list[str]:
    loss = "no step drew a row" if result.final_loss is None else f"{result.final_loss:.4g}"
    lines = [f"adapter: {folder}", f"steps: {result.num_steps}", f"loss: {loss}"]
    if result.privacy is not None:
        total = result.privacy["total"]
        lines[-1] += "   (for you alone: epsilon does not cover it)"
        lines += [
            f"epsilon: {result.privacy['epsilon']:.4g} at delta {result.privacy['delta']:.3g}, noise multiplier "
            f"{result.privacy['noise_multiplier']:.4g}",
            f"epsilon of all private runs on these rows in the ledger: {total['epsilon']:.4g} (runs: "
            f"{total['num_runs']})",
        ]
    return lines
