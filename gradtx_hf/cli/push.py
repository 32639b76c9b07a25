"""``gradtx push``: publish a translator's folder or an adapter's on the Hub, as one commit, with its card."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.hub import Destination, Published
from gradtx_hf.translation import PeftTranslator, is_translator_folder, publish_adapter_folder


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gradtx push", description=(__doc__ or "").strip())
    parser.add_argument("folder", metavar="FOLDER", help="a translator's or an adapter's folder")
    parser.add_argument("repo", metavar="REPO", help="'owner/name'; made if it is not there")
    parser.add_argument("--report", help="the report.json of an evaluation, or its folder; for a translator")
    parser.add_argument("--revision", help="branch to write to; made if it is not there")
    parser.add_argument("--public", action="store_true", help="a new repository is public; else it is private")
    parser.add_argument("--message", help="first line of the commit")
    parser.add_argument("--source-model", help="id on the Hub of the small model, where the folder names a local one")
    parser.add_argument("--target-model", help="id on the Hub of the large model, or of an adapter's base model")
    parser.add_argument(
        "--license", help="license, as the Hub names it, such as apache-2.0; by default none is said, or stays as it is"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(list(argv))
    if not Path(arguments.folder).is_dir():
        raise MissingFileError(f"there is no folder '{arguments.folder}'. Give a translator's or an adapter's.")
    is_translator = is_translator_folder(arguments.folder)
    published = _push_translator(arguments) if is_translator else _push_adapter(arguments)
    print_published(published, is_json=arguments.json)
    if is_translator and arguments.report is None:
        print("note: without --report the card shows the folder's own report.json, or no results", file=sys.stderr)
    print(f"use it with: {_use(published.repo_id, arguments.revision, is_translator=is_translator)}", file=sys.stderr)
    return 0


def print_published(published: Published, *, is_json: bool) -> None:
    """Print where something was published."""
    values = {
        "repo_id": published.repo_id,
        "commit": published.commit,
        "url": published.url,
        "is_changed": published.is_changed,
    }
    print(json.dumps(values, indent=2) if is_json else published.url)


def _use(repo_id: str, branch: str | None, *, is_translator: bool) -> str:
    if is_translator:
        return f"--translator {repo_id}@{branch}" if branch else f"--translator {repo_id}"
    revision = f", revision={branch!r}" if branch else ""
    return f"PeftModel.from_pretrained(model, {repo_id!r}{revision})"


def _push_translator(arguments: argparse.Namespace) -> Published:
    translator = PeftTranslator.from_pretrained(arguments.folder)
    sides = ((translator.source_init, arguments.source_model), (translator.target_init, arguments.target_model))
    return translator.push_to_hub(
        arguments.repo,
        private=not arguments.public,
        revision=arguments.revision,
        commit_message=arguments.message,
        report=arguments.report,
        base_models={init.base_model: name for init, name in sides if name is not None},
        license_id=arguments.license,
    )


def _push_adapter(arguments: argparse.Namespace) -> Published:
    for name in ("report", "source_model"):
        if getattr(arguments, name) is not None:
            flag = name.replace("_", "-")
            raise ConfigurationError(f"--{flag} goes with a translator, '{arguments.folder}' is none. Leave it out.")
    return publish_adapter_folder(
        arguments.folder,
        Destination(arguments.repo, private=not arguments.public, revision=arguments.revision),
        base_model=arguments.target_model,
        license_id=arguments.license,
        commit_message=arguments.message,
    )
