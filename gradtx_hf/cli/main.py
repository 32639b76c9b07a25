"""``gradtx``: finds the command, runs it, and turns every failure into one line.

Data go to standard output, notes to standard error. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from transformers.utils import logging as transformers_logging

from gradtx_hf.errors import GradTxError, safe_text


COMMANDS = {
    "quickstart": "run the whole story on the embedded pair of models",
    "inspect": "show what an adapter or a translator holds: exactly what would leave the house",
    "curate": "provider: fine-tune source and target on shadow sets of public data",
    "train": "provider: train a translator on a curated store",
    "client": "client: fine-tune the source model on private data, from a translator's source_init",
    "audit": "client: can an adapter's training rows be told from others? For a translated adapter too",
    "shift": "client: is a translator's public data close enough to mine? Nothing is sent",
    "translate": "turn source adapters into one target adapter",
    "aggregate": "turn several clients' source adapters into one, without translating it",
    "find": "list the translators on the Hub for a base model, the best measured first",
    "push": "publish a translator or an adapter on the Hub, with its card",
    "store": "push a curated store to the Hub, pull, verify or describe one",
    "evaluate": "score translated adapters beside every control",
    "export-lm-eval": "write the tasks as files of lm-evaluation-harness",
    "demo": "open the app on this machine: see an adapter cross over, translate one of your own",
    "study": "run one of the studies: the main table, or an ablation, cell by cell",
}
INTERRUPTED = "interrupted. Run the same command again to go on; what was finished is kept."


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``gradtx`` with the given arguments and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    name = parser.parse_args(arguments[:1]).command
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gradtx_hf").setLevel(logging.INFO)
    _quieten_libraries()
    try:
        command = importlib.import_module(f"gradtx_hf.cli.{name.replace('-', '_')}")
        if argv is None:  # a process of our own: what was imported stays, no collection need look through it
            gc.freeze()
        status = int(command.run(arguments[1:]) or 0)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail(INTERRUPTED)
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except GradTxError as error:
        return _fail(str(error))
    except Exception as error:  # noqa: BLE001 - the one place where a user is spared a traceback
        lines = str(error).strip().splitlines() or ["no message"]
        return _fail(f"{type(error).__name__}: {lines[0]} (GRADTX_DEBUG=1 shows the traceback)")


def build_parser() -> argparse.ArgumentParser:
    """Build the top-level parser; each command parses its own arguments."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {help_line}" for name, help_line in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="gradtx",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn a small model's LoRA adapter into a large model's, without the data.",
        epilog=f"commands:\n{listing}\n\n'gradtx COMMAND --help' shows a command's arguments.",
    )
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    return parser


def _quieten_libraries() -> None:
    """Keep other libraries' bars and deprecation notes, also those of worker processes, out of the user's sight."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    # the second: a worker that ends with its parent leaves the locks of its bars to the resource tracker
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore:resource_tracker")
    transformers_logging.disable_progress_bar()


def _fail(message: str) -> int:
    if os.environ.get("GRADTX_DEBUG") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {safe_text(' '.join(message.split()))}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
