"""A store as it may be published: what is of this machine alone has another name in its plan and initial adapters.

Public data that are no data set of the Hub do not travel with a store. In a published plan their paths become
``public_data/NAME``: whoever pulls the store and has the data puts them there, in the store's folder, and their SHA-256
is checked. A local base model becomes ``…/NAME``, which is no id on the Hub, or the id that the provider gives.

Source: ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from gradtx_hf.hub.cards import EMBEDDED, is_public_name
from gradtx_hf.hub.stores.description import INIT_FOLDERS
from gradtx_hf.hub.wording import without_private
from gradtx_hf.lora.adapter_config import CONFIG_FILE
from gradtx_hf.output import write_bytes, write_json
from gradtx_hf.updates.plan import read_json
from gradtx_hf.updates.shard import sha256_of_file
from gradtx_hf.updates.store import MANIFEST_FILE, PLAN_FILE, SHARDS_FOLDER, SIDES, Side, UpdateStore


INIT_FILES = (CONFIG_FILE, "adapter_model.safetensors")
PUBLIC_DATA_FOLDER = "public_data"
"""The folder of a pulled store in which public data are looked for that are not on the Hub."""


def write_public_store(store: UpdateStore, folder: Path, *, base_models: Mapping[Side, str]) -> UpdateStore:
    """Write a store's public form: its own shards, by a link, and all else without a path of this machine.

    Where there is none, the files are the same, byte for byte.

    Args:
        store: The complete store.
        folder: A new folder.
        base_models: Ids on the Hub, ``owner/name[@revision]``, for sides whose base model is a local folder.
    """
    values = read_json(store.folder / PLAN_FILE)
    public = public_plan(values, base_models=base_models)
    manifest = read_json(store.folder / MANIFEST_FILE)
    folder.mkdir()
    (folder / SHARDS_FOLDER).symlink_to((store.folder / SHARDS_FOLDER).absolute())
    if public == values:
        shutil.copyfile(store.folder / PLAN_FILE, folder / PLAN_FILE)
        shutil.copyfile(store.folder / MANIFEST_FILE, folder / MANIFEST_FILE)
    else:  # as UpdateStore writes them
        write_bytes(folder / PLAN_FILE, json.dumps(public, sort_keys=True, separators=(",", ":")).encode())
        manifest |= {"plan_sha256": sha256_of_file(folder / PLAN_FILE)}
        write_bytes(folder / MANIFEST_FILE, json.dumps(manifest, sort_keys=True, indent=1).encode())
    for side, init in INIT_FOLDERS.items():
        for name in INIT_FILES:
            if (store.folder / init / name).is_file():
                (folder / init).mkdir(exist_ok=True)
                shutil.copyfile(store.folder / init / name, folder / init / name)
        if (config := folder / init / CONFIG_FILE).is_file():
            saved = read_json(config)
            changed = public_init(saved, values["plan"], base_model=base_models.get(side))
            if changed != saved:
                write_json(config, changed)
    return UpdateStore.open(folder)


def public_plan(values: Mapping[str, Any], *, base_models: Mapping[Side, str]) -> dict[str, Any]:
    """Return the values of a plan.json without a path of this machine; the same where there is none.

    Args:
        values: What the store's file holds.
        base_models: Ids on the Hub, ``owner/name[@revision]``, for sides whose base model is a local folder.
    """
    plan = dict(values["plan"])
    corpora = plan.get("corpora", [])
    if corpora:
        names = _public_names([corpus for corpus in corpora if not _is_on_hub(corpus["path"], plan)], corpora)
        plan["corpora"] = [
            {
                **corpus,
                "path": f"{PUBLIC_DATA_FOLDER}/{names[corpus['path']]}" if corpus["path"] in names else corpus["path"],
                "label": names.get(corpus["label"], corpus["label"]),  # a label is the path by default
            }
            for corpus in corpora
        ]
        plan["shadow_sets"] = [
            {names.get(label, label): rows for label, rows in chosen.items()} for chosen in plan.get("shadow_sets", [])
        ]
    for side in SIDES:
        if isinstance(plan.get(side), Mapping) and "model" in plan[side]:
            name, revision = _public_model(plan[side]["model"], plan[side].get("revision"), plan, base_models.get(side))
            plan[side] = {**plan[side], "model": name, "revision": revision}
    public: dict[str, Any] = without_private({**values, "plan": plan})
    return public


def public_init(values: Mapping[str, Any], plan: Mapping[str, Any], *, base_model: str | None) -> dict[str, Any]:
    """Return the values of an initial adapter's adapter_config.json without a path of this machine.

    Args:
        values: What the file holds.
        plan: The store's own plan.
        base_model: Id on the Hub, ``owner/name[@revision]``, of a base model that is a local folder; None: none given.
    """
    public: dict[str, Any] = without_private(values)
    named = values.get("base_model_name_or_path")
    if isinstance(named, str) and named:
        name, revision = _public_model(named, values.get("revision"), plan, base_model)
        public |= {"base_model_name_or_path": name, "revision": revision}
    return public


def lacking_data(store: UpdateStore) -> list[str]:
    """Return the public data of a published store that are neither on the Hub nor in its folder.

    Returns:
        Paths ``public_data/NAME`` in the store's folder.
    """
    corpora = store.plan.get("corpora")  # which, pulled, anybody may have written
    paths = [corpus.get("path") for corpus in corpora if isinstance(corpus, dict)] if isinstance(corpora, list) else []
    local = [path for path in paths if isinstance(path, str) and path.startswith(f"{PUBLIC_DATA_FOLDER}/")]
    return [path for path in local if not os.path.exists(store.folder / path)]  # noqa: PTH110 - False for odd names


def _is_on_hub(path: str, plan: Mapping[str, Any]) -> bool:
    """Return whether a corpus is a data set of the Hub: curation pins all of those, and no other."""
    if "pins" not in plan:
        return is_public_name(path)
    return any(pin["type"] == "dataset" and pin["name"] == path for pin in plan["pins"])


def _public_names(local: Sequence[Mapping[str, Any]], corpora: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return local path to name: the file's own, or that with a number where another corpus has the name or label."""
    taken = {corpus["label"] for corpus in corpora if corpus["label"] != corpus["path"]}
    names: dict[str, str] = {}
    for path in dict.fromkeys(str(corpus["path"]) for corpus in local):
        own = PurePath(PurePath(path).name.lstrip("~.") or "data")
        name, number = own.name, 1
        while name in taken:
            number += 1
            name = f"{own.stem}-{number}{own.suffix}"
        names[path] = name
        taken.add(name)
    return names


def _public_model(
    name: str, revision: str | None, plan: Mapping[str, Any], given: str | None
) -> tuple[str, str | None]:
    is_pinned = any(pin["type"] == "model" and pin["name"] == name for pin in plan.get("pins", []))
    if is_pinned or name in EMBEDDED or ("pins" not in plan and is_public_name(name)):
        return name, revision
    if given is not None:
        given_name, _, given_revision = given.partition("@")
        return given_name, given_revision or None
    return f"…/{PurePath(name).name}", revision
