"""``gradtx train``: train a translator on a curated store; every argument of transformers' Trainer is a flag too."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.training import TranslatorArguments, train


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse_into(TranslatorArguments, argv, command="train", description=(__doc__ or "").strip())
    translator = train(arguments)
    print(json.dumps({"translator": translator.name, "start_distance_limit": translator.start_distance_limit}))
    print(f"next: gradtx inspect {translator.name}", file=sys.stderr)
    return 0
