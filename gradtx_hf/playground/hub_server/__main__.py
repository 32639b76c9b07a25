"""``python -m gradtx_hf.playground.hub_server``: a Hub on this machine until Ctrl-C, and what its clients must set.

The lines to export go to standard output, all else to standard error.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from gradtx_hf.errors import ConfigurationError, GradTxError
from gradtx_hf.playground.hub_server.faults import FAULT_KINDS, FaultKind
from gradtx_hf.playground.hub_server.server import DEFAULT_USERS, HubServer


RANDOM_KINDS: tuple[FaultKind, ...] = (
    "500",
    "503",
    "429",
    "drop_upload",
    "drop_response",
    "drop_download",
    "slow_download",
)
NUM_KEPT_REQUESTS = 1000
"""A Hub that runs for days is to take no more memory for what it was asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted and return the exit status."""
    arguments = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        users = dict(_pair(text, "--token TOKEN=USER") for text in arguments.token) or DEFAULT_USERS
        organizations = {
            name: members.split(",") for name, members in (_pair(t, "--org NAME=USER,USER") for t in arguments.org)
        }
        with HubServer(
            arguments.data_dir,
            port=arguments.port,
            users=users,
            organizations=organizations,
            num_kept_requests=NUM_KEPT_REQUESTS,
        ) as hub:
            if arguments.fault_rate:
                rate, seed = arguments.fault_rate, arguments.fault_seed
                hub.faults.add(*arguments.fault_kinds, probability=rate, seed=seed, seconds=1.0)
            _write_exports(hub.url, users)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except GradTxError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gradtx_hf.playground.hub_server",
        description="A small local Hugging Face Hub, on this machine, until Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=8000, help="port on loopback; 0 takes any free one")
    parser.add_argument("--data-dir", help="folder of the repositories; without it they are forgotten at the end")
    parser.add_argument(
        "--token", action="append", default=[], metavar="TOKEN=USER", help="a user; repeat it for several"
    )
    parser.add_argument(
        "--org", action="append", default=[], metavar="NAME=USER,USER", help="an organization and its members"
    )
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of requests that fail, from 0 to 1")
    parser.add_argument("--fault-seed", type=int, default=0, help="which requests fail, and how")
    parser.add_argument(
        "--fault-kinds",
        nargs="+",
        choices=FAULT_KINDS,
        default=RANDOM_KINDS,
        metavar="KIND",
        help=f"how they fail, of {', '.join(FAULT_KINDS)}; default: {', '.join(RANDOM_KINDS)}",
    )
    return parser


def _pair(text: str, usage: str) -> tuple[str, str]:
    """Split a flag's value; what is malformed is not repeated, as it may be a token."""
    name, _, value = text.partition("=")
    if not (name and value):
        raise ConfigurationError(f"got a value without a name, '=' and a value, expected {usage}.")
    return name, value


def _write_exports(url: str, users: dict[str, str]) -> None:
    lines = [f"export HF_ENDPOINT={url}", "export HF_HUB_DISABLE_XET=1"]
    tokens = [f"export HF_TOKEN={token}  # {user}" for token, user in users.items()]
    lines += [tokens[0], *(f"# {line}" for line in tokens[1:])]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    sys.stderr.write("Set these in the terminal of each client. Ctrl-C ends the Hub.\n")


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
