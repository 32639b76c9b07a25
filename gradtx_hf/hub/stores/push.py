"""push_store: a complete store into a data set repository, as one commit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gradtx_hf.hub.cards import license_metadata
from gradtx_hf.hub.destination import Destination, RepoKind
from gradtx_hf.hub.publish import Published, publish, require_publishable
from gradtx_hf.hub.stores.card import store_card
from gradtx_hf.hub.stores.description import INIT_FOLDERS, describe_store
from gradtx_hf.hub.stores.files import FILES_FILE, encode_file_list
from gradtx_hf.hub.stores.parquet import plan_run_files, write_run_file
from gradtx_hf.hub.stores.public_plan import INIT_FILES, lacking_data, write_public_store
from gradtx_hf.updates.store import MANIFEST_FILE, PLAN_FILE, Side, UpdateStore


logger = logging.getLogger(__name__)

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


def push_store(
    folder: str | Path,
    destination: Destination,
    *,
    license_id: str | None = None,
    base_models: Mapping[Side, str] | None = None,
) -> Published:
    """Push a complete store: Parquet files, plan, manifest, initial adapters and a card, all in one commit.

    No path of this machine is published (see ``public_plan``). The Parquet files are written beside the store first,
    which needs about its size of free disk, and removed again. What the repository already holds is not sent again, so
    an interrupted push goes on where it was.

    Args:
        folder: The store's folder.
        destination: The data set repository.
        license_id: The license, as the Hub names it; None: none is written.
        base_models: Ids on the Hub, ``owner/name[@revision]``, for sides whose base model is a local folder.

    Raises:
        ConfigurationError: If the license cannot be one.
        MissingFileError: If the store is not there.
        StoreError: If it is not complete, or damaged.
        HubError: If the repository holds something else, or cannot be written.
    """
    license_metadata(license_id)  # refused before the work
    store = UpdateStore.open(folder)
    require_publishable(destination, kind=KIND)
    store.verify()
    parent = store.folder.absolute().parent
    with tempfile.TemporaryDirectory(prefix=f".{store.folder.name}-push-", dir=parent) as temporary:
        public = write_public_store(store, Path(temporary) / "store", base_models=base_models or {})
        names = [PLAN_FILE, MANIFEST_FILE, *(f"{init}/{name}" for init in INIT_FOLDERS.values() for name in INIT_FILES)]
        files = {name: public.folder / name for name in names if (public.folder / name).is_file()}
        for number, run_file in enumerate(plan_run_files(public)):
            files[run_file.path] = Path(temporary) / f"{number}.parquet"
            write_run_file(public, run_file, files[run_file.path])
        lacking = lacking_data(public)
        if lacking:
            logger.warning(
                "%d files of public data are not on the Hub and do not travel with the store. The objective functional "
                "needs them: whoever pulls it puts them into its folder as '%s'",
                len(lacking),
                "', '".join(lacking),
            )
        return publish(
            {**files, FILES_FILE: encode_file_list(files)},
            destination,
            kind=KIND,
            card=store_card(describe_store(public), destination, license_id=license_id, lacking=lacking),
            commit_message=f"Push {store.num_shadow_sets} shadow sets",
        )
