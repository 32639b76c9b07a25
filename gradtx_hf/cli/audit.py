"""``gradtx audit ADAPTER... --members F --non-members F``: can an adapter's training rows be told from others?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.privacy.arguments import AuditArguments
from gradtx_hf.privacy.audit import audit_adapters
from gradtx_hf.privacy.markdown import render_markdown


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    adapters = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    rest = list(argv)[len(adapters) :]
    arguments, is_json = parse_into(
        AuditArguments,
        ["--adapters", *adapters, *rest] if adapters else rest,
        command="audit",
        description=(__doc__ or "").strip(),
    )
    report = audit_adapters(arguments, show_progress=True)
    print(json.dumps(report.to_json(), indent=2) if is_json else render_markdown(report))
    print(f"wrote {', '.join(str(path) for path in sorted(Path(arguments.output_dir).iterdir()))}", file=sys.stderr)
    if arguments.write_card:
        for adapter in report.adapters:
            print(f"wrote the result into {adapter.name}/privacy.json", file=sys.stderr)
    return 0
