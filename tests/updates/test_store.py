from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gradtx_hf.errors import LayoutError, MissingFileError, OutputExistsError, StoreError
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import SIDES, UpdateStore


SOURCE = BlockLayout.from_shapes({f"layers.{n}.q_proj.lora_A": (2, 4) for n in range(2)})
TARGET = BlockLayout.from_shapes({f"layers.{n}.q_proj.lora_A": (2, 6) for n in range(3)})
PLAN = {"num_shadow_sets": 2, "seed": 7, "rows": [[1, 2], [3, 4]]}


def create(folder: Path, **changes: object) -> UpdateStore:
    return UpdateStore.create(folder, plan=PLAN | changes, source_layout=SOURCE, target_layout=TARGET)


def run_of(side: str, shadow_set: int, *, num_snapshots: int = 4) -> Tensor:
    layout = SOURCE if side == "source" else TARGET
    generator = torch.Generator().manual_seed(10 * shadow_set + (side == "source"))
    return torch.randn(num_snapshots, layout.num_blocks, layout.block_dim, generator=generator)


def filled(folder: Path) -> UpdateStore:
    store = create(folder)
    for side in SIDES:
        for shadow_set in range(2):
            store.write(side, shadow_set, run_of(side, shadow_set), {"final_loss": 0.1 + shadow_set, "converged": True})
    store.finish()
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_opened_store_gives_back_what_was_written(tmp_path: Path) -> None:
    filled(tmp_path / "store")

    store = UpdateStore.open(tmp_path / "store")

    assert store.plan == PLAN
    assert (store.source_layout, store.target_layout) == (SOURCE, TARGET)
    for side in SIDES:
        for shadow_set in range(2):
            assert torch.equal(store.read(side, shadow_set), run_of(side, shadow_set))
            assert torch.equal(store.snapshot(side, shadow_set, -2), run_of(side, shadow_set)[2])
    assert store.info("source", 1) == {"final_loss": 1.1, "converged": True, "layout": SOURCE.fingerprint}
    store.verify()


def test_bfloat16_shards_are_half_as_large_and_read_as_float32(tmp_path: Path) -> None:
    store = create(tmp_path, store_dtype="bfloat16")
    runs = {(side, k): 10.0**k * run_of(side, k) for side in SIDES for k in range(2)}
    for (side, k), run in runs.items():
        store.write(side, k, run, {})
    store.finish()

    store = UpdateStore.open(tmp_path)

    assert store.dtype == torch.bfloat16
    for (side, k), run in runs.items():
        read = store.read(side, k)
        assert read.dtype == store.snapshot(side, k, -1).dtype == torch.float32
        assert float(((read - run) / run).abs().max()) <= 2**-8  # bfloat16 has eight significant bits
        assert torch.equal(read, run.bfloat16().float())
        assert torch.equal(store.snapshot(side, k, -2), read[-2])
        pairs = [(k, -1), (k, -3), (k, -1)]
        assert torch.equal(store.snapshots(side, pairs), read[[-1, -3, -1]])
        assert load_file(store.shard_path(side, k))["tokens"].dtype == torch.bfloat16
        assert store.has(side, k)
    store.verify()
    path = store.shard_path("target", 1)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not UpdateStore.resume(tmp_path).has("target", 1)
    with pytest.raises(StoreError, match=r"target-00001\.safetensors' is damaged"):
        store.verify()


def test_snapshots_that_rounding_makes_equal_are_given_once(tmp_path: Path) -> None:
    store = create(tmp_path, num_shadow_sets=1, store_dtype="bfloat16")
    for side in SIDES:
        run = run_of(side, 0)
        run[1] = run[0] * (1 + 2**-20)
        store.write(side, 0, run.bfloat16().float() * (1 + 2**-20), {})
    store.finish()

    assert len(store.pairs) == 3


def test_float32_stores_have_the_bytes_they_always_had(tmp_path: Path) -> None:
    layout = BlockLayout.from_shapes({"layers.0.q_proj.lora_A": (2, 4)})
    store = UpdateStore.create(tmp_path, plan={"num_shadow_sets": 1}, source_layout=layout, target_layout=layout)
    for side in SIDES:
        store.write(side, 0, torch.arange(24.0).view(3, 1, 8) / 7, {"final_loss": 0.5})
    store.finish()

    digest = hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()  # it names all others' digests
    assert digest == "1a33053d2faf5a6d423cf32d4a843be26c4793ea4988a9c69ace131465dd3a3d"


@pytest.mark.parametrize("named", ["float16", "F32", None, 2, ["bfloat16"]])
def test_another_number_format_is_refused(named: object, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got store_dtype=.*expected one of float32, bfloat16"):
        create(tmp_path, store_dtype=named)
    filled(tmp_path / "store")
    values = json.loads((tmp_path / "store" / "plan.json").read_text())
    values["plan"]["store_dtype"] = named
    (tmp_path / "store" / "plan.json").write_text(json.dumps(values))
    with pytest.raises(StoreError, match=r"got store_dtype=.*expected one of float32, bfloat16"):
        UpdateStore.open(tmp_path / "store")


def test_a_shard_of_another_number_format_than_the_plans_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "float32")
    store = create(tmp_path / "bfloat16", store_dtype="bfloat16")
    shutil.copyfile(UpdateStore.open(tmp_path / "float32").shard_path("source", 0), store.shard_path("source", 0))

    with pytest.raises(StoreError, match=r"source-00000\.safetensors' holds tokens of another .* number format"):
        store.read("source", 0)


def test_numbers_that_bfloat16_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="diverged"):
        create(tmp_path, store_dtype="bfloat16").write("source", 0, torch.full((1, 2, 8), 3.4e38), {})


def test_two_stores_of_one_content_have_the_same_bytes(tmp_path: Path) -> None:
    filled(tmp_path / "a")

    store = create(tmp_path / "b")
    store.write("target", 1, run_of("target", 1), {"converged": True, "final_loss": 1.1})
    (tmp_path / "b" / "shards" / ".source-00000.safetensors.1.tmp").write_bytes(b"left by a killed process")
    resumed = create(tmp_path / "b")
    for side in reversed(SIDES):
        for shadow_set in range(2):
            if not resumed.has(side, shadow_set):
                info = {"final_loss": 0.1 + shadow_set, "converged": True}
                resumed.write(side, shadow_set, run_of(side, shadow_set), info)
    resumed.finish()

    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_pairs_count_from_the_end_of_both_runs(tmp_path: Path) -> None:
    store = create(tmp_path, num_shadow_sets=1)
    store.write("source", 0, run_of("source", 0, num_snapshots=3), {})
    store.write("target", 0, run_of("target", 0, num_snapshots=5), {})
    store.finish()

    pairs = UpdateStore.open(tmp_path).pairs

    assert pairs == [(0, -3), (0, -2), (0, -1)]
    assert torch.equal(store.snapshot("target", 0, -3), run_of("target", 0, num_snapshots=5)[2])


def test_equal_pairs_are_given_once(tmp_path: Path) -> None:
    store = create(tmp_path)
    for side in SIDES:
        run = run_of(side, 0)
        run[1] = run[2]
        store.write(side, 0, run, {})
        store.write(side, 1, run[-1:], {})
    store.finish()

    assert UpdateStore.open(tmp_path).pairs == [(0, -4), (0, -3), (0, -1)]


def test_snapshot_with_the_same_source_and_another_target_is_kept(tmp_path: Path) -> None:
    store = create(tmp_path, num_shadow_sets=1)
    store.write("source", 0, run_of("source", 0)[:1].repeat(2, 1, 1), {})
    store.write("target", 0, run_of("target", 0)[:2], {})
    store.finish()

    assert UpdateStore.open(tmp_path).pairs == [(0, -2), (0, -1)]


def with_few_targets(folder: Path, target_shadow_sets: list[int]) -> UpdateStore:
    """Fill a store of four shadow sets, of which some have a target run."""
    store = create(folder, num_shadow_sets=4, target_shadow_sets=target_shadow_sets)
    for side in SIDES:
        for shadow_set in store.shadow_sets(side):
            store.write(side, shadow_set, run_of(side, shadow_set, num_snapshots=2), {})
    store.finish()
    return UpdateStore.open(folder)


def test_pairs_are_of_the_sets_with_a_target_run(tmp_path: Path) -> None:
    store = with_few_targets(tmp_path, [1, 3])

    assert (list(store.shadow_sets("source")), list(store.shadow_sets("target"))) == ([0, 1, 2, 3], [1, 3])
    assert store.pairs == [(1, -2), (1, -1), (3, -2), (3, -1)]
    assert store.source_snapshots == [(k, i) for k in range(4) for i in (-2, -1)]
    assert torch.equal(store.snapshot("target", 3, -1), run_of("target", 3, num_snapshots=2)[-1])
    assert [store.has("target", k) for k in range(4)] == [False, True, False, True]
    assert len(list((tmp_path / "shards").iterdir())) == 6
    store.verify()


def test_store_without_target_runs_is_complete(tmp_path: Path) -> None:
    store = with_few_targets(tmp_path, [])

    assert (store.pairs, len(store.source_snapshots)) == ([], 8)
    store.verify()
    (tmp_path / "shards" / "source-00002.safetensors").unlink()
    with pytest.raises(StoreError, match="1 of 4 shards are missing"):
        UpdateStore.open(tmp_path)


def test_equal_source_snapshots_are_given_once_also_where_their_targets_differ(tmp_path: Path) -> None:
    store = create(tmp_path)
    for shadow_set in range(2):
        store.write("source", shadow_set, run_of("source", 0), {})
        store.write("target", shadow_set, run_of("target", shadow_set), {})
    store.finish()

    assert store.source_snapshots == [(0, -4), (0, -3), (0, -2), (0, -1)]
    assert len(store.pairs) == 8


def test_target_run_that_was_not_planned_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = with_few_targets(tmp_path, [1, 3])
    message = r"shadow set 2 has no target run: .* has 2 for 4 shadow sets. Curate with num_target_runs: null"

    with pytest.raises(StoreError, match=message) as caught:
        store.read("target", 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=message):
        store.check("target", 2)
    with pytest.raises(StoreError, match=message):
        store.info("target", 2)
    with pytest.raises(StoreError, match=message):
        store.write("target", 2, run_of("target", 2), {})


@pytest.mark.parametrize("named", [[3, 1], [1, 1], [4], [-1], ["1"], 2, None])
def test_target_runs_of_sets_that_are_not_there_are_refused(tmp_path: Path, named: object) -> None:
    with pytest.raises(StoreError, match=r"got target_shadow_sets=.*expected different numbers from 0 to 3, ascending"):
        create(tmp_path, num_shadow_sets=4, target_shadow_sets=named)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "removed"])
def test_damaged_shard_counts_as_absent(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path)
    path = tmp_path / "shards" / "target-00001.safetensors"
    content = path.read_bytes()
    damaged = {"truncated": content[:-8], "changed": content[:-1] + bytes([content[-1] ^ 1]), "empty": b""}
    path.unlink() if damage == "removed" else path.write_bytes(damaged[damage])

    assert not create(tmp_path).has("target", 1)
    assert create(tmp_path).has("target", 0)
    with pytest.raises(StoreError, match=r"target-00001\.safetensors"):
        store.verify()


def test_incomplete_store_says_how_many_shards_are_missing(tmp_path: Path) -> None:
    store = create(tmp_path)
    store.write("source", 0, run_of("source", 0), {})

    with pytest.raises(StoreError, match=r"3 of 4 shards are missing. The same gradtx curate or .* continues it"):
        UpdateStore.open(tmp_path)
    with pytest.raises(StoreError, match=r"target-00000"):
        store.finish()


def test_other_plan_is_refused_with_the_key_that_differs(tmp_path: Path) -> None:
    create(tmp_path)

    with pytest.raises(StoreError, match=r"rows\[1\]\[0\] is 9, the store has 3"):
        create(tmp_path, rows=[[1, 2], [9, 4]])
    with pytest.raises(StoreError, match="seed is 8, the store has 7"):
        create(tmp_path, seed=8)


def test_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(OutputExistsError, match="is no update store"):
        create(tmp_path)

    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_folder_that_a_killed_process_left_before_its_plan_is_used(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / ".plan.json.12.tmp").write_bytes(b"{")

    filled(tmp_path)

    UpdateStore.open(tmp_path).verify()
    assert not (tmp_path / ".plan.json.12.tmp").exists()


def test_missing_folder_and_other_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        UpdateStore.open(tmp_path / "none")
    with pytest.raises(StoreError, match="is no update store"):
        UpdateStore.open(tmp_path)


@pytest.mark.parametrize("shape", [(4, 2, 9), (2, 8), (0, 2, 8)])
def test_tokens_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(LayoutError, match="expected"):
        create(tmp_path).write("source", 0, torch.zeros(shape), {})


def test_diverged_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="diverged"):
        create(tmp_path).write("source", 0, torch.full((1, 2, 8), torch.nan), {})


def test_manifest_holds_no_time_and_no_path(tmp_path: Path) -> None:
    filled(tmp_path)

    manifest = json.loads((tmp_path / "manifest.json").read_text())

    assert set(manifest) == {"format", "plan_sha256", "shards"}
    assert set(manifest["shards"]["source-00000.safetensors"]) == {"side", "shadow_set", "sha256", "snapshots", "info"}
    assert str(tmp_path) not in (tmp_path / "manifest.json").read_text()


def test_snapshots_of_many_runs_are_read_at_once(tmp_path: Path) -> None:
    store = filled(tmp_path)
    chosen = [(1, -2), (0, -1), (1, -2), (0, -4)]

    for side in SIDES:
        read = store.snapshots(side, chosen)

        assert torch.equal(read, torch.stack([store.snapshot(side, *pair) for pair in chosen]))
        read.zero_()
        assert torch.equal(store.read(side, 1), run_of(side, 1))
    with pytest.raises(StoreError, match="shadow set 5 has no source run"):
        store.snapshots("source", [(0, -1), (5, -1)])


def fill_beside_another(folder: Path, barrier: Barrier | None = None) -> None:
    """Fill a store as a curation does, from the same moment as another process."""
    store = create(folder, num_shadow_sets=12)
    if barrier is not None:
        barrier.wait(timeout=60)
    for shadow_set in range(12):
        for side in SIDES:
            if not store.has(side, shadow_set):
                store.write(side, shadow_set, run_of(side, shadow_set), {"final_loss": 0.1})
    store.finish()


def test_two_processes_fill_one_store_to_the_bytes_of_one(tmp_path: Path) -> None:
    fill_beside_another(tmp_path / "one")
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(2)
    writers = [fork.Process(target=fill_beside_another, args=(tmp_path / "two", barrier)) for _ in range(2)]

    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0, 0]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    UpdateStore.open(tmp_path / "two").verify()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_temporary_file_that_another_process_swept_away_loses_nothing(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)
    if not is_there:
        (tmp_path / "shards" / "source-00000.safetensors").unlink()
    replace = Path.replace

    def swept(path: Path, target: Path) -> Path:
        path.unlink()  # as another's ``finish`` does between the writing and the renaming
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", swept)

    if is_there:
        store.write("source", 0, run_of("source", 0), {"final_loss": 0.1, "converged": True})
        store.verify()
    else:
        with pytest.raises(FileNotFoundError):
            store.write("source", 0, run_of("source", 0), {})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_reading_all_pairs_keeps_memory_and_open_files_constant(tmp_path: Path) -> None:
    layout = BlockLayout.from_shapes({"layers.0.q_proj.lora_A": (2, 32768)})
    store = UpdateStore.create(tmp_path, plan=PLAN, source_layout=layout, target_layout=layout)
    for side in SIDES:
        for shadow_set in range(2):
            store.write(side, shadow_set, torch.randn(64, 1, 65536), {})  # 16 MiB each
    store.finish()
    opened = UpdateStore.open(tmp_path)
    num_files, before = len(list(Path("/proc/self/fd").iterdir())), _anonymous_bytes()

    total = sum(float(opened.snapshot(side, *pair).sum()) for pair in opened.pairs for side in SIDES)

    assert total != 0
    assert len(list(Path("/proc/self/fd").iterdir())) == num_files
    assert _anonymous_bytes() - before < 4 << 20


def _anonymous_bytes() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
