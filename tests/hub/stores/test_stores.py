"""Stores as data set repositories, over real HTTP: pushed, loaded by ``datasets``, pulled byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it has no stubs
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import HfApi, constants

from gradtx_hf.errors import HubError, MissingFileError, OutputExistsError, StoreError
from gradtx_hf.hub import retry
from gradtx_hf.hub.destination import Destination
from gradtx_hf.hub.stores import describe_store, parquet, pull, pull_store, push_store
from gradtx_hf.playground.hub_server import FaultKind, HubServer
from gradtx_hf.updates.store import UpdateStore
from tests.hubs import ALICE
from tests.tiny import save_tiny_adapter
from tests.training.stores import write_linear_store


@pytest.fixture
def store(tmp_path: Path) -> UpdateStore:
    """A store of five shadow sets, three with a target run, and its initial adapters."""
    made = write_linear_store(tmp_path / "store", num_shadow_sets=5, num_snapshots=3, target_sets=[0, 2, 3])
    for name in ("source_init", "target_init"):
        save_tiny_adapter(tmp_path / "store" / name)
    return made


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """A repository of this test alone."""
    return f"alice/store-{abs(hash(request.node.name))}"


def push(store: UpdateStore, repo: str, **options: object) -> str:
    destination = Destination(repo, token=ALICE, repo_type="dataset", **options)  # type: ignore[arg-type]
    return push_store(store.folder, destination).commit


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file but READMEs, which are not pulled."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_store_comes_back_byte_for_byte(store: UpdateStore, repo: str, hub: HubServer, tmp_path: Path) -> None:
    push(store, repo)

    pulled = pull_store(repo, tmp_path / "pulled", token=ALICE)

    assert contents(pulled.folder) == contents(store.folder)
    pulled.verify()


def test_a_store_in_bfloat16_comes_back_byte_for_byte(repo: str, hub: HubServer, tmp_path: Path) -> None:
    made = write_linear_store(tmp_path / "store", num_shadow_sets=2, num_snapshots=3, store_dtype="bfloat16")
    for name in ("source_init", "target_init"):
        save_tiny_adapter(tmp_path / "store" / name)
    push(made, repo)

    pulled = pull_store(repo, tmp_path / "pulled", token=ALICE)

    assert contents(pulled.folder) == contents(made.folder)
    pulled.verify()
    assert pulled.dtype == torch.bfloat16
    rows = load_dataset(repo, "target", split="train", token=ALICE, cache_dir=str(tmp_path / "cache"))
    tokens = torch.tensor(rows["tokens"][:]).view(2, 3, *made.read("target", 0).shape[1:])
    assert torch.equal(tokens, torch.stack([made.read("target", k) for k in range(2)]))
    card = HfApi(token=ALICE).hf_hub_download(repo, "README.md", repo_type="dataset", cache_dir=tmp_path / "hub")
    assert "float32, rounded to bfloat16, row-major" in Path(card).read_text()


def test_a_push_is_one_commit_and_a_second_one_none(store: UpdateStore, repo: str, hub: HubServer) -> None:
    api = HfApi(token=ALICE)

    first = push(store, repo)
    second = push(store, repo)

    assert first == second
    assert api.dataset_info(repo).private is True
    assert len(api.list_repo_commits(repo, repo_type="dataset")) == 2  # the repository's own first one, and ours
    assert not list(store.folder.parent.glob(".store-push-*"))


def test_stock_datasets_loads_and_streams_it(
    store: UpdateStore, repo: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parquet, "MAX_FILE_BYTES", 2000)
    push(store, repo)

    source = load_dataset(repo, token=ALICE, cache_dir=str(tmp_path / "cache"))["train"].with_format("numpy")
    target = load_dataset(repo, "target", split="train", streaming=True, token=ALICE)

    assert source.column_names == ["shadow_set", "side", "snapshot", "label", "num_blocks", "block_dim", "tokens"]
    assert len(source) == 15
    row = source[4]
    assert (row["shadow_set"], row["side"], row["snapshot"]) == (1, "source", -2)
    blocks = row["tokens"].reshape(row["num_blocks"], row["block_dim"])
    assert np.array_equal(blocks, store.snapshot("source", 1, -2).numpy())
    rows = list(target)
    assert [row["shadow_set"] for row in rows] == [0, 0, 0, 2, 2, 2, 3, 3, 3]
    assert np.array_equal(np.float32(rows[-1]["tokens"]), store.snapshot("target", 3, -1).flatten().numpy())


def test_the_card_says_what_is_known_and_what_is_not(
    store: UpdateStore, repo: str, hub: HubServer, tmp_path: Path
) -> None:
    push(store, repo)

    path = HfApi(token=ALICE).hf_hub_download(repo, "README.md", repo_type="dataset", local_dir=tmp_path / "card")
    _, front, body = Path(path).read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert "license" not in metadata
    assert {"gradtx_hf", "update-pairs"} <= set(metadata["tags"])
    assert metadata["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in metadata["configs"]] == ["source", "target"]
    assert f'load_dataset("{repo}", "source", split="train")' in body
    assert "$" not in body
    assert str(tmp_path) not in body


def test_the_card_of_a_branch_says_how_to_load_the_branch(store: UpdateStore, repo: str, hub: HubServer) -> None:
    push(store, repo, revision="second")

    repository = hub.store.find("datasets", repo)
    assert repository is not None
    card = hub.store.blobs.read(repository.at("second").files["README.md"].sha256).decode()
    assert f'load_dataset("{repo}", "source", revision="second", split="train")' in card
    assert f'load_dataset("{repo}", "target", revision="second", split="train", streaming=True)' in card
    assert f"gradtx store pull {repo}@second --output-dir store" in card


def test_without_target_runs_there_is_no_target_config(repo: str, hub: HubServer, tmp_path: Path) -> None:
    bare = write_linear_store(tmp_path / "store", num_shadow_sets=2, target_sets=[])
    push(bare, repo)

    assert len(load_dataset(repo, token=ALICE, cache_dir=str(tmp_path / "cache"))["train"]) == 4
    pulled = pull_store(repo, tmp_path / "pulled", token=ALICE)
    assert contents(pulled.folder) == contents(bare.folder)


def test_an_interrupted_pull_goes_on(
    store: UpdateStore, repo: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push(store, repo)
    written = []

    def write(path: Path, content: bytes) -> None:
        written.append(path.name)
        if len(written) == 9:  # plan, four files of initial adapters, three shards
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as patched:
        patched.setattr(pull, "write_bytes", write)
        with pytest.raises(KeyboardInterrupt):
            pull_store(repo, tmp_path / "pulled", token=ALICE)
    with pytest.raises(StoreError, match="is not complete"):
        UpdateStore.open(tmp_path / "pulled")
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "pulled" / "shards").iterdir()}

    pulled = pull_store(repo, tmp_path / "pulled", token=ALICE)

    assert contents(pulled.folder) == contents(store.folder)
    assert there
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())


@pytest.mark.parametrize(
    ("kind", "method", "path", "width"),
    [
        ("500", "POST", "*/commit/*", 5),
        ("drop_response", "POST", "*/commit/*", 6),
        ("drop_upload", "PUT", "*", 7),
        ("503", "POST", "*/preupload/*", 8),
    ],
)
def test_a_push_over_a_bad_network_is_still_one_commit(
    kind: FaultKind,
    method: str,
    path: str,
    width: int,  # another content for each, or the Hub has it already
    repo: str,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=2, width=width)
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    hub.faults.add(kind, method=method, path=path, times=1)

    push(store, repo)

    assert not list(hub.faults)  # it did happen
    assert len(HfApi(token=ALICE).list_repo_commits(repo, repo_type="dataset")) == 2
    assert contents(pull_store(repo, tmp_path / "pulled", token=ALICE).folder) == contents(store.folder)


@pytest.mark.parametrize("pattern", ["*/data/source-*", "*/manifest.json", "*/files.json"])
def test_a_file_damaged_on_its_way_is_fetched_again(
    pattern: str, store: UpdateStore, repo: str, hub: HubServer, tmp_path: Path
) -> None:
    push(store, repo)
    hub.faults.add("corrupt_download", method="GET", path=pattern, times=1)

    pulled = pull_store(repo, tmp_path / "pulled", token=ALICE)

    assert contents(pulled.folder) == contents(store.folder)


def test_a_file_that_stays_damaged_is_named(store: UpdateStore, repo: str, hub: HubServer, tmp_path: Path) -> None:
    push(store, repo)
    hub.faults.add("corrupt_download", method="GET", path="*/plan.json")

    with pytest.raises(StoreError, match=r"do not arrive as they were pushed, such as 'plan\.json' \(damaged\)"):
        pull_store(repo, tmp_path / "pulled", token=ALICE)
    assert not (tmp_path / "pulled").exists()


def test_offline_what_is_cached_is_pulled_and_the_rest_refused(
    store: UpdateStore, repo: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push(store, repo)
    pull_store(repo, tmp_path / "first", token=ALICE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_requests = len(hub.requests)

    pulled = pull_store(repo, tmp_path / "pulled")

    assert contents(pulled.folder) == contents(store.folder)
    with pytest.raises(MissingFileError, match="is not, or not wholly, in the cache, and the network is switched off"):
        pull_store("alice/never-fetched", tmp_path / "other")
    with pytest.raises(HubError, match="the network is switched off"):
        push(store, repo)
    assert len(hub.requests) == num_requests


def test_a_folder_of_something_else_is_not_pulled_into(
    store: UpdateStore, repo: str, hub: HubServer, tmp_path: Path
) -> None:
    push(store, repo)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    other = write_linear_store(tmp_path / "other", num_shadow_sets=2)

    with pytest.raises(OutputExistsError, match="exists and is no update store"):
        pull_store(repo, tmp_path / "taken", token=ALICE)
    with pytest.raises(StoreError, match="holds the store of another plan: num_shadow_sets is 5, the store has 2"):
        pull_store(repo, other.folder, token=ALICE)
    UpdateStore.open(other.folder).verify()


def test_a_repository_of_something_else_is_not_pulled(repo: str, hub: HubServer, tmp_path: Path) -> None:
    api = HfApi(token=ALICE)
    api.create_repo(repo, repo_type="dataset", private=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="plan.json", repo_id=repo, repo_type="dataset")

    with pytest.raises(StoreError, match=r"holds no files\.json: it is no update store"):
        pull_store(repo, tmp_path / "pulled", token=ALICE)


def test_a_damaged_store_is_not_pushed(store: UpdateStore, repo: str, hub: HubServer) -> None:
    path = store.shard_path("source", 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(StoreError, match=r"source-00001\.safetensors' is damaged"):
        push(store, repo)
    assert hub.store.find("datasets", repo) is None


@pytest.mark.parametrize("cut", [4, 200, -40])
def test_a_damaged_parquet_file_is_one_clear_line(cut: int, store: UpdateStore, tmp_path: Path) -> None:
    run_file = parquet.plan_run_files(store)[0]
    parquet.write_run_file(store, run_file, tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:cut])

    with pytest.raises(StoreError, match=r"'x\.parquet' is damaged"):
        list(parquet.read_shards(tmp_path / "x.parquet", widths={"source": 12, "target": 20}, dtype=store.dtype))


def test_a_parquet_file_with_fewer_rows_than_it_says_is_one_clear_line(store: UpdateStore, tmp_path: Path) -> None:
    run_file = parquet.plan_run_files(store)[0]
    parquet.write_run_file(store, run_file, tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    pq.write_table(table.slice(0, 3), tmp_path / "x.parquet")  # the first run alone, with the metadata of all

    with pytest.raises(StoreError, match=r"'x\.parquet' is damaged"):
        list(parquet.read_shards(tmp_path / "x.parquet", widths={"source": 12, "target": 20}, dtype=store.dtype))


def test_a_row_group_larger_than_any_that_is_pushed_is_not_unpacked(
    store: UpdateStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parquet.write_run_file(store, parquet.plan_run_files(store)[0], tmp_path / "x.parquet")
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 2 * 4 * 12)  # two rows; the file has three in a group

    with pytest.raises(StoreError, match=r"'x\.parquet' is damaged"):
        list(parquet.read_shards(tmp_path / "x.parquet", widths={"source": 12, "target": 20}, dtype=store.dtype))


def test_files_are_filled_up_to_the_limit_and_runs_are_never_split(store: UpdateStore) -> None:
    size = store.shard_path("source", 0).stat().st_size

    files = parquet.plan_run_files(store, max_file_bytes=2 * size)

    assert [file.shadow_sets for file in files if file.side == "source"] == [(0, 1), (2, 3), (4,)]
    assert files[0].path == "data/source-00000-of-00003.parquet"
    assert [file.shadow_sets for file in parquet.plan_run_files(store, max_file_bytes=1)][:2] == [(0,), (1,)]


def test_a_run_longer_than_a_row_group_comes_back(
    store: UpdateStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1)  # one row each
    run_file = parquet.plan_run_files(store)[0]

    parquet.write_run_file(store, run_file, tmp_path / "x.parquet")

    width = store.source_layout.num_blocks * store.source_layout.block_dim
    for name, content in parquet.read_shards(tmp_path / "x.parquet", widths={"source": width}, dtype=store.dtype):
        assert content == (store.folder / "shards" / name).read_bytes()


def test_a_store_is_described_whether_complete_or_not(store: UpdateStore) -> None:
    whole = describe_store(store)
    store.shard_path("target", 2).unlink()

    partial = describe_store(UpdateStore.resume(store.folder))

    assert (whole["complete"], whole["pairs"], whole["different_snapshots"]) == (True, 9, 15)
    assert whole["dtype"] == "float32"
    assert (whole["source"]["runs"], whole["target"]["runs"], whole["target"]["snapshots"]) == (5, 3, 9)
    assert (partial["complete"], partial["pairs"]) == (False, None)
    assert (partial["target"]["runs"], partial["target"]["planned_runs"]) == (2, 3)
