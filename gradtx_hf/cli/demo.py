"""``gradtx demo``: the app, on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gradtx_hf.demo import build_demo, launch


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx demo", description=(__doc__ or "").strip())
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="let anybody in who has the link, by a tunnel of Gradio's")
    arguments = parser.parse_args(list(argv))
    demo = build_demo()
    address = launch(demo, host=arguments.host, port=arguments.port, share=arguments.share, is_blocking=False)
    print(demo.share_url if arguments.share else address, flush=True)
    print("stop with Ctrl-C", file=sys.stderr)
    demo.block_thread()
    return 0
