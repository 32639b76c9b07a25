"""Jobs that each do a share of one plan, and know nothing of each other, make the store that one machine makes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.curation.share import Share, hold_store
from gradtx_hf.errors import ConfigurationError, StoreError
from tests.curation.farms import curated, small_curation


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> CurationArguments:
    return small_curation(tmp_path_factory.mktemp("farm"))


@pytest.fixture(scope="module")
def single(arguments: CurationArguments, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine makes."""
    return curated(arguments, tmp_path_factory.mktemp("single") / "store")


def test_jobs_that_take_shares_of_one_plan_make_the_store_of_one(
    arguments: CurationArguments, single: dict[str, bytes], tmp_path: Path
) -> None:
    planned = curate(replace(arguments, output_dir=str(tmp_path / "plan"), plan_only=True)).folder
    for i in range(3):  # machines without a common file system: each copies the plan, and gives back shards alone
        shutil.copytree(planned, tmp_path / f"job{i}")
        curate(replace(arguments, output_dir=str(tmp_path / f"job{i}"), share=f"{i}/3"))
    done = [{path.name for path in (tmp_path / f"job{i}" / "shards").iterdir()} for i in range(3)]
    for i in range(3):
        assert not (tmp_path / f"job{i}" / "manifest.json").exists()
        shutil.copytree(tmp_path / f"job{i}" / "shards", planned / "shards", dirs_exist_ok=True)
    times = {path.name: path.stat().st_mtime_ns for path in (planned / "shards").iterdir()}

    merged = curated(arguments, planned)

    assert merged == single
    assert sum(map(len, done)) == len(set.union(*done)) == len(times) == 8
    assert [len(names) for names in done] == [2, 3, 3]
    assert {path.name: path.stat().st_mtime_ns for path in (planned / "shards").iterdir()} == times


def test_jobs_of_one_folder_hold_their_shares(
    arguments: CurationArguments, single: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    curate(replace(arguments, output_dir=str(folder), plan_only=True))
    with hold_store(folder, Share(0, 2)):
        curate(replace(arguments, output_dir=str(folder), share="1/2"))
        with pytest.raises(StoreError, match=r"another process is doing share 0/2"):
            curate(replace(arguments, output_dir=str(folder), share="0/2"))
        with pytest.raises(StoreError, match=r"another process is doing a share of .*\.lock-0-of-2"):
            curate(replace(arguments, output_dir=str(folder)))
    curate(replace(arguments, output_dir=str(folder), share="0/2"))

    assert curated(arguments, folder) == single


def test_share_without_a_plan_is_refused_and_nothing_is_left(arguments: CurationArguments, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no plan to take a share of.*plan_only"):
        curate(replace(arguments, output_dir=str(tmp_path / "store"), share="0/2"))

    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("text", ["2/2", "0/0", "-1/2", "1", "a/b", "1/2/3"])
def test_share_that_is_none_is_refused(arguments: CurationArguments, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected i/n with 0 ≤ i < n"):
        replace(arguments, share=text)
