"""A curation spread over a Ray cluster ends as on one machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import yaml

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.curation.worker import Pack
from gradtx_hf.errors import ConfigurationError, MissingExtraError
from gradtx_hf.output import write_bytes
from gradtx_hf.updates.store import UpdateStore
from tests.curation.farms import RECIPE, contents, curated, small_curation


LONG = RECIPE | {"num_steps": 100}
"""Takes long enough to be killed at."""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> CurationArguments:
    return small_curation(tmp_path_factory.mktemp("farm"))


@pytest.fixture(scope="module")
def single(arguments: CurationArguments, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine makes."""
    return curated(arguments, tmp_path_factory.mktemp("single") / "store")


@pytest.fixture(scope="module")
def long(arguments: CurationArguments) -> CurationArguments:
    return replace(arguments, source_recipe=LONG, target_recipe=LONG, num_shadow_sets=8, pack=1)


@pytest.fixture(scope="module")
def long_single(long: CurationArguments, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return curated(long, tmp_path_factory.mktemp("long") / "store")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"farm": "slurm"}, "got farm='slurm', expected ray"),
        ({"ray_address": "10.0.0.1:6379"}, "without farm"),
        ({"farm": "ray", "ray_address": "ray://10.0.0.1:10001"}, "expected host:port"),
        ({"plan_only": True, "share": "0/2"}, "plan_only together with share"),
    ],
)
def test_arguments_of_a_farm_that_cannot_be_used_are_refused(
    arguments: CurationArguments, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(arguments, **changes)  # type: ignore[arg-type]


# what a worker does, here in this process


def perform_here(packs: Sequence[Pack], store: UpdateStore, *, address: str | None = None) -> None:
    """Do packs as a farm does, by a worker that sees none of the models."""
    from gradtx_hf.curation.farm_worker import FarmWorker, load_cargo, load_model_files

    shared = {pack.shared.side: pack.shared for pack in packs}
    models = {side: list(load_model_files(of_side)) for side, of_side in shared.items()}
    cargos = [load_cargo(of_side) for of_side in shared.values()]
    for of_side in shared.values():
        (Path(of_side.settings.model) / "config.json").rename(Path(of_side.settings.model) / "hidden")
    worker = FarmWorker()
    assert worker.receive(*cargos) == ["source", "target"]
    for side, files in models.items():
        for name, content in files:
            worker.receive_model_file(side, name, content)
    for of_side in shared.values():
        shutil.rmtree(of_side.tokens_folder)
    for pack in packs:
        *shards, seconds = worker.perform(pack)
        assert isinstance(seconds, float)
        for run, shard in zip(pack.runs, shards, strict=True):
            assert isinstance(shard, bytes)
            write_bytes(store.shard_path(pack.shared.side, run.shadow_set), shard)
    worker.close()
    for of_side in shared.values():
        (Path(of_side.settings.model) / "hidden").rename(Path(of_side.settings.model) / "config.json")


def test_worker_without_the_providers_files_does_the_same(
    arguments: CurationArguments, single: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra [farm]")
    monkeypatch.setattr("gradtx_hf.curation.farm.perform_on_ray", perform_here)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert curated(replace(arguments, farm="ray"), tmp_path / "store") == single
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_machine_with_other_libraries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradtx_hf.curation.farm_worker import Cargo, FarmWorker

    worker = FarmWorker()
    cargo = Cargo(shared=None, store_files={}, token_files={}, model_sha256=None, versions={"torch": "1.0"})  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=r"has gradtx-hf .*, expected None.*Install the same versions"):
        worker.receive(cargo)

    worker.close()


def test_missing_ray_is_named_with_the_command_that_installs_it(
    arguments: CurationArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "ray" else find_spec(name, *rest))
    monkeypatch.delitem(sys.modules, "gradtx_hf.curation.farm", raising=False)

    with pytest.raises(MissingExtraError, match=r'needs ray\. Install it with: pip install "gradtx-hf\[farm\]"'):
        curate(replace(arguments, farm="ray", output_dir=str(tmp_path / "store")))

    assert not (tmp_path / "store").exists()


# on Ray


@pytest.fixture
def nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], list[object]]]:
    """Start nodes of one CPU each on this machine and join them; yields the function that does."""
    ray = pytest.importorskip("ray", reason="needs the extra [farm]")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("workers")))  # what killed workers leave lies there
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # sockets need short paths
    cluster = Cluster()

    def start(num_nodes: int) -> list[object]:
        added = [
            cluster.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False)
            for _ in range(num_nodes)
        ]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        return [(cluster, node) for node in added]

    yield start
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.long
def test_farm_of_this_machine_makes_the_store_of_one(
    arguments: CurationArguments,
    single: dict[str, bytes],
    tmp_path: Path,
    nodes: Callable[[int], list[object]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    nodes(1)

    assert curated(replace(arguments, farm="ray"), tmp_path / "store") == single
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "curating packs: 100%" in printed.err


def workers_of(node: object) -> list[psutil.Process]:
    """Return a node's workers that are doing a pack."""
    (raylet,) = node.all_processes["raylet"]  # type: ignore[attr-defined]
    below = psutil.Process(raylet.process.pid).children(recursive=True)
    return [process for process in below if process.cmdline()[:1] == ["ray::FarmWorker.perform"]]


def when_under_way(store: Path, act: Callable[[], bool], *, num_shards: int) -> tuple[threading.Thread, list[int]]:
    """Act, in another thread, as soon as some shards are written; until it succeeds. Records the shards at the time."""
    recorded: list[int] = []

    def wait_and_act() -> None:
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            num_done = len(list((store / "shards").glob("*.safetensors"))) if store.is_dir() else 0
            if num_done >= num_shards and act():
                recorded.append(num_done)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread, recorded


@pytest.mark.long
def test_lost_node_and_killed_worker_leave_the_store_of_one_machine(
    long: CurationArguments,
    long_single: dict[str, bytes],
    tmp_path: Path,
    nodes: Callable[[int], list[object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (cluster, first), (_, second) = nodes(2)  # type: ignore[misc]
    folder = tmp_path / "store"

    def kill_worker() -> bool:
        busy = workers_of(first)
        for process in busy:
            process.send_signal(signal.SIGKILL)
        return bool(busy)

    def kill_node() -> bool:
        busy = workers_of(second)
        if busy:
            cluster.remove_node(second, allow_graceful=False)
        return bool(busy)

    worker_killer, worker_killed = when_under_way(folder, kill_worker, num_shards=2)
    node_killer, node_killed = when_under_way(folder, kill_node, num_shards=4)
    got = curated(replace(long, farm="ray"), folder)
    worker_killer.join()
    node_killer.join()

    assert worker_killed
    assert worker_killed[0] < 11
    assert node_killed
    assert node_killed[0] < 11
    assert len([record for record in caplog.records if "was lost" in record.message]) == 2
    assert got == long_single
    manifest = json.loads(got["manifest.json"])["shards"]
    assert len({(shard["side"], shard["shadow_set"]) for shard in manifest.values()}) == len(manifest) == 11
    assert len(set(UpdateStore.open(folder).source_snapshots)) == 8 * 3


@pytest.mark.long
def test_interrupted_farm_goes_on_where_it_stopped(
    long: CurationArguments, long_single: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs the extra [farm]")
    folder = tmp_path / "store"
    config = tmp_path / "curate.yaml"
    config.write_text(yaml.safe_dump(asdict(replace(long, output_dir=str(folder), farm="ray"))))
    command = [sys.executable, "-m", "gradtx_hf.cli.main", "curate", "--config", str(config)]
    # a cluster of its own; what killed workers leave lies with the test
    environment = os.environ | {"RAY_ADDRESS": "local", "TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        interrupter, interrupted = when_under_way(
            folder, lambda: process.send_signal(signal.SIGINT) or True, num_shards=3
        )
        _, notes = process.communicate()
        interrupter.join()
    assert interrupted
    assert process.returncode != 0
    assert "Traceback" not in notes
    assert not (folder / "manifest.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*.safetensors")}

    subprocess.run(command, check=True, capture_output=True, env=environment)

    assert contents(folder) == long_single
    assert len(kept) >= 3
    assert all((folder / "shards" / name).stat().st_mtime_ns == when for name, when in kept.items())


@pytest.mark.long
def test_models_that_a_node_does_not_hold_are_sent(
    arguments: CurationArguments,
    single: dict[str, bytes],
    tmp_path: Path,
    nodes: Callable[[int], list[object]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from gradtx_hf.curation import farm

    perform = farm.perform_on_ray
    notes = [Path(folder) / "notes.json" for folder in (arguments.source_model, arguments.target_model)]

    def change_and_perform(packs: Sequence[Pack], store: UpdateStore, *, address: str | None = None) -> None:
        for path in notes:  # what a node finds in the models' folders is no longer what the plan says
            path.write_text("{}")
        perform(packs, store, address=address)
        for path in notes:
            path.unlink()

    monkeypatch.setattr(farm, "perform_on_ray", change_and_perform)
    caplog.set_level("INFO", logger="gradtx_hf.curation.farm")
    nodes(1)

    assert curated(replace(arguments, farm="ray"), tmp_path / "store") == single
    assert [r.message[:18] for r in caplog.records if "sending" in r.message] == [
        "sending the source",
        "sending the target",
    ]


@pytest.mark.long
def test_run_that_diverges_on_a_farm_is_named(
    arguments: CurationArguments, tmp_path: Path, nodes: Callable[[int], list[object]]
) -> None:
    nodes(1)
    recipe = RECIPE | {"learning_rate": 1e30, "max_grad_norm": 0.0}

    with pytest.raises(ConfigurationError, match=r"source run of shadow set \d: the loss is no longer finite"):
        curate(replace(arguments, source_recipe=recipe, farm="ray", output_dir=str(tmp_path / "store")))
