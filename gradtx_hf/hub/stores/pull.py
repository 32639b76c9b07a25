"""pull_store: a data set repository that ``push_store`` wrote back to a store, byte for byte."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from huggingface_hub import constants

from gradtx_hf.errors import StoreError
from gradtx_hf.hub.resolve import fetch_repository
from gradtx_hf.hub.stores.description import INIT_FOLDERS
from gradtx_hf.hub.stores.files import FILES_FILE, find_damaged_downloads
from gradtx_hf.hub.stores.parquet import DATA_FOLDER, read_shards
from gradtx_hf.hub.stores.public_plan import INIT_FILES, lacking_data
from gradtx_hf.output import write_bytes
from gradtx_hf.updates.manifest import Manifest
from gradtx_hf.updates.plan import read_plan, require_same_plan
from gradtx_hf.updates.shard import find_damage
from gradtx_hf.updates.store import MANIFEST_FILE, PLAN_FILE, SHARDS_FOLDER, SIDES, UpdateStore


logger = logging.getLogger(__name__)


def pull_store(
    repo: str, output_dir: str | Path, *, revision: str | None = None, token: str | None = None
) -> UpdateStore:
    """Pull a store from the Hub into a folder; the same call again goes on where an earlier one was interrupted.

    The files stay in the Hub's cache, too. Each is checked by its SHA-256, and fetched once more if it is damaged; each
    shard is checked against the store's own manifest.

    Args:
        repo: ``owner/name`` or ``owner/name@revision``, a data set repository.
        output_dir: A new folder, or that of an interrupted pull of the same store.
        revision: Branch, tag or commit; the default branch if None.
        token: Access token; the one that ``hf auth login`` stored if None.

    Raises:
        MissingFileError: If there is no such repository that can be read; without the network, if it is not cached.
        OutputExistsError: If the folder holds something else.
        StoreError: If the folder holds another store, or what is fetched is no store or stays damaged.
    """
    output_dir = Path(output_dir)
    UpdateStore.require_usable(output_dir)
    fetched = _fetch_whole(repo, revision=revision, token=token)
    return unpack_store(fetched, output_dir)


def unpack_store(fetched: Path, output_dir: Path) -> UpdateStore:
    """Write the store that a fetched repository holds into a folder, or go on with it.

    Args:
        fetched: The repository's files, which anybody may have written.
        output_dir: A new folder, or that of an interrupted pull of the same store.

    Raises:
        StoreError: If the folder holds another store, or the files are no store or do not fit each other.
        LayoutError: If a layout is damaged.
    """
    manifest = Manifest.read(fetched / MANIFEST_FILE)
    _begin(fetched, output_dir, num_shards=len(manifest.shards))
    store = UpdateStore.resume(output_dir)
    _write_shards(store, fetched, {name: str(record["sha256"]) for name, record in manifest.shards.items()})
    write_bytes(output_dir / MANIFEST_FILE, (fetched / MANIFEST_FILE).read_bytes())
    logger.info("pulled %d shards to %s", len(manifest.shards), output_dir)
    store = UpdateStore.open(output_dir)
    if lacking := lacking_data(store):
        logger.warning(
            "the store's public data are not on the Hub: for the objective functional, put them into '%s' as '%s'",
            output_dir,
            "', '".join(lacking),
        )
    return store


def _fetch_whole(repo: str, *, revision: str | None, token: str | None) -> Path:
    """Return the fetched repository with every file as it was pushed; damaged ones are fetched a second time."""
    fetched = fetch_repository(repo, repo_type="dataset", revision=revision, token=token)
    damage = find_damaged_downloads(fetched.path)
    if damage and not constants.is_offline_mode():
        logger.warning("%d files of '%s' were damaged on their way: fetching them again", len(damage), fetched.name)
        for path in {*damage, fetched.path / FILES_FILE}:  # the list too: it may be what is wrong
            path.resolve().unlink(missing_ok=True)  # what the cache's link leads to
            path.unlink(missing_ok=True)
        fetched = fetch_repository(fetched.name, repo_type="dataset", revision=fetched.commit, token=token)
        damage = find_damaged_downloads(fetched.path)
    if damage:
        path, fault = next(iter(damage.items()))
        hint = "Allow the network once" if constants.is_offline_mode() else "Pull again, or push the store anew"
        raise StoreError(
            f"{len(damage)} files of '{fetched.name}' do not arrive as they were pushed, such as "
            f"'{path.relative_to(fetched.path)}' ({fault}). {hint}."
        )
    return fetched.path


def _begin(fetched: Path, output_dir: Path, *, num_shards: int) -> None:
    """Write plan and initial adapters into the folder, or check that they are those of the store that it holds."""
    values = read_plan(fetched / PLAN_FILE)
    num_planned = values["plan"]["num_shadow_sets"]
    if not num_planned <= num_shards <= len(SIDES) * num_planned:  # before anything is made of so many
        raise StoreError(
            f"the plan names {num_planned} shadow sets, the manifest {num_shards} shards: they do not fit."
        )
    if (output_dir / PLAN_FILE).is_file():
        require_same_plan(values, read_plan(output_dir / PLAN_FILE), output_dir)
    (output_dir / SHARDS_FOLDER).mkdir(parents=True, exist_ok=True)
    write_bytes(output_dir / PLAN_FILE, (fetched / PLAN_FILE).read_bytes())
    for init in INIT_FOLDERS.values():
        for name in INIT_FILES:
            if (fetched / init / name).is_file():
                (output_dir / init).mkdir(exist_ok=True)
                write_bytes(output_dir / init / name, (fetched / init / name).read_bytes())


def _write_shards(store: UpdateStore, fetched: Path, digests: dict[str, str]) -> None:
    """Write the shards that are not there, or not whole."""
    paths = {path.name: path for side in SIDES for path in (store.shard_path(side, k) for k in store.shadow_sets(side))}
    if paths.keys() != digests.keys():
        raise StoreError("the manifest does not name the shards of the plan. Push the store anew.")
    lacking = {path.name for path in find_damage({path: digests[name] for name, path in paths.items()})}
    widths = {side: store.layout(side).num_blocks * store.layout(side).block_dim for side in SIDES}
    for file in sorted((fetched / DATA_FOLDER).glob("*.parquet")) if lacking else []:
        for name, content in read_shards(file, widths=widths, dtype=store.dtype):
            if name not in lacking:
                continue
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise StoreError(f"shard '{name}' out of '{file.name}' is not the manifest's. Push the store anew.")
            write_bytes(paths[name], content)
            lacking.remove(name)
    if lacking:
        raise StoreError(f"the repository lacks {len(lacking)} shards, such as '{min(lacking)}'. Push the store anew.")
