"""push_store: a complete store into a data set repository, as one commit."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from gradtx_hf.hub.destination import Destination, RepoKind
from gradtx_hf.hub.publish import Published, publish, require_publishable
from gradtx_hf.hub.stores.card import store_card
from gradtx_hf.hub.stores.description import INIT_FOLDERS, describe_store
from gradtx_hf.hub.stores.files import FILES_FILE, encode_file_list
from gradtx_hf.hub.stores.parquet import plan_run_files, write_run_file
from gradtx_hf.updates.store import MANIFEST_FILE, PLAN_FILE, UpdateStore


logger = logging.getLogger(__name__)

INIT_FILES = ("adapter_config.json", "adapter_model.safetensors")
KIND = RepoKind(
    "store",
    owned=(
        PLAN_FILE,
        MANIFEST_FILE,
        FILES_FILE,
        "data/*.parquet",
        *(f"{folder}/{name}" for folder in INIT_FOLDERS.values() for name in INIT_FILES),
    ),
)


def push_store(folder: str | Path, destination: Destination, *, license_id: str | None = None) -> Published:
    """Push a complete store: Parquet files, plan, manifest, initial adapters and a card, all in one commit.

    The Parquet files are written beside the store first, which needs about its size of free disk, and removed again.
    What the repository already holds is not sent again, so an interrupted push goes on where it was.

    Args:
        folder: The store's folder.
        destination: The data set repository.
        license_id: The license, as the Hub names licenses; None: not known.

    Raises:
        MissingFileError: If the store is not there.
        StoreError: If it is not complete, or damaged.
        HubError: If the repository holds something else, or cannot be written.
    """
    store = UpdateStore.open(folder)
    require_publishable(destination, kind=KIND)
    store.verify()
    _warn_of_local_data(store)
    card = store_card(describe_store(store), destination, license_id=license_id)
    parent = store.folder.absolute().parent
    with tempfile.TemporaryDirectory(prefix=f".{store.folder.name}-push-", dir=parent) as temporary:
        files = {name: store.folder / name for name in (PLAN_FILE, MANIFEST_FILE)}
        for init in INIT_FOLDERS.values():
            files |= {f"{init}/{name}": store.folder / init / name for name in INIT_FILES}
        files = {path: file for path, file in files.items() if file.is_file()}
        for number, run_file in enumerate(plan_run_files(store)):
            files[run_file.path] = Path(temporary) / f"{number}.parquet"
            write_run_file(store, run_file, files[run_file.path])
        return publish(
            {**files, FILES_FILE: encode_file_list(files)},
            destination,
            kind=KIND,
            card=card,
            commit_message=f"Push {store.num_shadow_sets} shadow sets",
        )


def _warn_of_local_data(store: UpdateStore) -> None:
    """Say that public data on this machine do not travel with the store, and that the plan names their files."""
    paths = [str(corpus.get("path")) for corpus in store.plan.get("corpora", [])]
    local = [path for path in paths if Path(path).is_absolute() or Path(path).exists()]
    if local:
        logger.warning(
            "the store's plan, which is published as it is, names %d local files of public data, such as '%s': whoever "
            "pulls the store needs them at the same place for the objective functional",
            len(local),
            local[0],
        )
