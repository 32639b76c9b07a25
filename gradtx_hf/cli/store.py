"""``gradtx store``: push an update store to the Hub as a data set, pull it, check it, say what it holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradtx_hf.errors import StoreError
from gradtx_hf.hub.destination import Destination
from gradtx_hf.hub.stores import describe_store, pull_store, push_store
from gradtx_hf.updates.store import MANIFEST_FILE, SIDES, Side, UpdateStore


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = _build_parser().parse_args(list(argv))
    status: int = arguments.function(arguments)
    return status


def _push(arguments: argparse.Namespace) -> int:
    destination = Destination(
        arguments.repo, private=not arguments.public, revision=arguments.revision, repo_type="dataset"
    )
    given: dict[Side, str | None] = {"source": arguments.source_model, "target": arguments.target_model}
    base_models = {side: name for side, name in given.items() if name is not None}
    published = push_store(arguments.store, destination, license_id=arguments.license, base_models=base_models)
    values = {"repository": published.repo_id, "commit": published.commit, "url": published.url}
    print(json.dumps(values, indent=2) if arguments.json else published.url)
    place = f"{published.repo_id}@{arguments.revision}" if arguments.revision else published.repo_id
    print(f"next: gradtx store pull {place} --output-dir STORE", file=sys.stderr)
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    store = pull_store(arguments.repo, arguments.output_dir, revision=arguments.revision)
    print(json.dumps({"store": str(store.folder)}, indent=2) if arguments.json else store.folder)
    print(f"next: gradtx train --store {store.folder} --output-dir TRANSLATOR", file=sys.stderr)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    store = UpdateStore.resume(arguments.store)
    damage = _find_damage(store)
    if arguments.json:
        print(json.dumps({"store": str(store.folder), "damage": damage}, indent=2))
    else:
        print("\n".join(f"{name}: {fault}" for name, fault in damage.items()) or f"{store.folder}: whole")
    if damage:
        raise StoreError(
            f"{len(damage)} files of update store '{store.folder}' are damaged or missing. The same gradtx curate or "
            "gradtx store pull command writes them again."
        )
    return 0


def _find_damage(store: UpdateStore) -> dict[str, str]:
    """Return the files that are damaged or missing; while there is no manifest, by what each shard says of itself."""
    if (store.folder / MANIFEST_FILE).is_file():
        damage = store.damaged_files()
    else:
        runs = [(side, k) for side in SIDES for k in store.shadow_sets(side)]
        faulty = [store.shard_path(side, k) for side, k in runs if not store.has(side, k)]
        damage = {path: "damaged" if path.is_file() else "missing" for path in faulty}
        damage[store.folder / MANIFEST_FILE] = "missing"
    return {path.relative_to(store.folder).as_posix(): fault for path, fault in damage.items()}


def _stat(arguments: argparse.Namespace) -> int:
    described = describe_store(UpdateStore.resume(arguments.store))
    print(json.dumps(described, indent=2) if arguments.json else _as_text(described))
    return 0


def _as_text(described: dict[str, Any]) -> str:
    lines = [f"store: {described['store']}{'' if described['complete'] else ' (not complete)'}"]
    for key in ("shadow_sets", "pairs", "different_snapshots", "bytes"):
        if described[key] is not None:
            lines.append(f"{key.replace('_', ' ')}: {described[key]:,}")
    lines.append(f"stored as: {described['dtype']}")
    if described["corpora"]:
        lines.append(f"corpora: {len(described['corpora'])}")
    for side in SIDES:
        of_side = described[side]
        revision = f"@{of_side['base_revision']}" if of_side["base_revision"] else ""
        lines.append(
            f"{side}: {of_side['base_model'] or 'unknown model'}{revision}, {of_side['runs']:,} of "
            f"{of_side['planned_runs']:,} runs, {of_side['snapshots']:,} snapshots, {of_side['num_blocks']} blocks of "
            f"{of_side['block_dim']:,} numbers each (layout {of_side['layout']})"
        )
    return "\n".join(lines)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gradtx store", description=(__doc__ or "").strip())
    commands = parser.add_subparsers(required=True, metavar="push|pull|verify|stat")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")

    push = commands.add_parser("push", parents=[shared], help="push a complete store as one commit")
    push.add_argument("store", metavar="STORE", type=Path, help="folder that gradtx curate made")
    push.add_argument("repo", metavar="REPO", help="data set repository 'owner/name'; made, and private, if it is new")
    push.add_argument("--public", action="store_true", help="make a new repository public, or allow one that is")
    push.add_argument("--revision", help="branch to write to, made if it is not there")
    push.add_argument("--license", help="license of the updates, as the Hub names it; by default none is said")
    push.add_argument(
        "--source-model", metavar="ID", help="id on the Hub of the small model, where it is a local folder"
    )
    push.add_argument(
        "--target-model", metavar="ID", help="id on the Hub of the large model, where it is a local folder"
    )
    push.set_defaults(function=_push)

    pull = commands.add_parser("pull", parents=[shared], help="fetch a store; again, to go on after an interruption")
    pull.add_argument("repo", metavar="REPO", help="data set repository 'owner/name[@revision]'")
    pull.add_argument("--output-dir", required=True, help="new folder for the store, or that of an interrupted pull")
    pull.add_argument("--revision", help="branch, tag or commit")
    pull.set_defaults(function=_pull)

    verify = commands.add_parser("verify", parents=[shared], help="name every file that is damaged or missing")
    verify.add_argument("store", metavar="STORE", type=Path, help="folder of the store")
    verify.set_defaults(function=_verify)

    stat = commands.add_parser("stat", parents=[shared], help="say what a store holds, complete or not")
    stat.add_argument("store", metavar="STORE", type=Path, help="folder of the store")
    stat.set_defaults(function=_stat)
    return parser
