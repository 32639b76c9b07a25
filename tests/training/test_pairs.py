from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from gradtx_hf.errors import DataError
from gradtx_hf.training import PairDataset, split_by_shadow_set
from gradtx_hf.training.data import collate_pairs
from gradtx_hf.updates.store import UpdateStore
from tests.training.stores import write_linear_store


def anonymous_bytes() -> int:
    """Return the process's anonymous resident memory: pages of mapped files do not count."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.99])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_shadow_set_is_on_both_sides_of_the_split(share: float, seed: int, tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=7)

    split = split_by_shadow_set(store.pairs, validation_share=share, seed=seed)

    train, validation = ({shadow_set for shadow_set, _ in side} for side in (split.train, split.validation))
    assert not train & validation
    assert train
    assert validation
    assert sorted(split.train + split.validation) == sorted(store.pairs)


def test_the_seed_chooses_the_validation_sets(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=20)

    first, again, other = (split_by_shadow_set(store.pairs, validation_share=0.2, seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first != other
    assert len({shadow_set for shadow_set, _ in first.validation}) == 4


def test_a_share_of_zero_or_a_single_shadow_set_leaves_nothing_to_validate_on(tmp_path: Path) -> None:
    several = write_linear_store(tmp_path / "several", num_shadow_sets=3)
    single = write_linear_store(tmp_path / "single", num_shadow_sets=1)

    assert split_by_shadow_set(several.pairs, validation_share=0.0, seed=0).validation == ()
    assert split_by_shadow_set(single.pairs, validation_share=0.05, seed=0).validation == ()


@pytest.mark.parametrize("store_dtype", ["float32", "bfloat16"])
def test_batches_hold_the_updates_of_their_pairs(store_dtype: str, tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=3, store_dtype=store_dtype)

    (batch,) = DataLoader(PairDataset(store, store.pairs), batch_size=99, collate_fn=collate_pairs)

    assert batch["source_blocks"].dtype == batch["target_blocks"].dtype == torch.float32
    for row, (shadow_set, snapshot) in enumerate(store.pairs):
        assert torch.equal(batch["source_blocks"][row], store.snapshot("source", shadow_set, snapshot))
        assert torch.equal(batch["target_blocks"][row], store.snapshot("target", shadow_set, snapshot))


def test_a_store_without_pairs_is_refused(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=1)
    store.pairs = []  # type: ignore[misc]  # a cached property

    with pytest.raises(DataError, match=r"no target runs.*num_target_runs: null"):
        split_by_shadow_set(store.pairs, validation_share=0.1, seed=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the kernel's own figures")
def test_reading_all_pairs_keeps_none_of_them_in_memory(tmp_path: Path) -> None:
    write_linear_store(tmp_path / "store", num_shadow_sets=24, num_snapshots=20, width=1000)
    store = UpdateStore.open(tmp_path / "store")
    loader = DataLoader(PairDataset(store, store.pairs), batch_size=8, collate_fn=collate_pairs)
    total_bytes = sum(path.stat().st_size for path in (tmp_path / "store" / "shards").iterdir())
    next(iter(loader))

    before = anonymous_bytes()
    num_read = sum(len(batch["source_blocks"]) for batch in loader)
    grown = anonymous_bytes() - before

    assert num_read == len(store.pairs)
    assert total_bytes > 50e6
    assert grown < 0.1 * total_bytes  # a batch is 2 % of it, and there may be two
