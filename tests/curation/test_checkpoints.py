"""Packs that are ended in the middle go on from their last checkpoint and end with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from torch import Tensor

from gradtx_hf.curation import CurationArguments, SnapshotRecorder, curate
from gradtx_hf.updates.shard import is_whole
from tests.curation.world import RULES, save_model, write_lines


SCRIPT = """
import json, sys
from gradtx_hf.curation import CurationArguments, curate
if __name__ == '__main__':
    curate(CurationArguments(**json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> CurationArguments:
    folder = tmp_path_factory.mktemp("checkpoints")
    recipe = {"num_steps": 12, "batch_size": 4, "learning_rate": 1e-2, "max_length": 32}
    return CurationArguments(
        source_model=str(save_model(folder / "source", hidden_size=8, num_layers=2, seed=0)),
        target_model=str(save_model(folder / "target", hidden_size=16, num_layers=1, seed=1)),
        output_dir="",
        corpora=[
            {"path": str(write_lines(folder / f"{rule.name}.jsonl", rule, 24)), "label": rule.name} for rule in RULES
        ],
        num_shadow_sets=5,
        num_target_runs=2,
        samples_per_set=16,
        num_snapshots=5,
        source_recipe=recipe,
        target_recipe=recipe,
        dropout=0.1,
        pack=3,
        checkpoint_seconds=0,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stopping_after(num_records: int) -> Callable[..., None]:
    """Return a recorder's method that ends the process's work at some step of some pack."""
    original = SnapshotRecorder.record
    left = [num_records]

    def record(self: SnapshotRecorder, step: int, running: Sequence[int], factors: Mapping[str, Tensor]) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        original(self, step, running, factors)

    return record


def test_curation_ended_inside_packs_goes_on_there_and_ends_with_the_same_bytes(
    arguments: CurationArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = curate(replace(arguments, checkpoint_seconds=300, output_dir=str(tmp_path / "undisturbed")))
    to_store = replace(arguments, output_dir=str(tmp_path / "store"))
    checkpoints = []

    for num_records in (7, 9, 14):
        with monkeypatch.context() as patched:
            patched.setattr(SnapshotRecorder, "record", stopping_after(num_records))
            with pytest.raises(KeyboardInterrupt):
                curate(to_store)
        checkpoints += [path.name for path in (tmp_path / "store" / ".work").glob("*/checkpoint-*")]
    store = curate(to_store)

    # every start went on from where the one before had ended, over three packs of 12 steps
    assert checkpoints == ["checkpoint-6", "checkpoint-2", "checkpoint-3"]
    assert contents(store.folder) == contents(undisturbed.folder)


def test_short_packs_write_no_checkpoints(
    arguments: CurationArguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotRecorder, "record", stopping_after(8))
    with pytest.raises(KeyboardInterrupt):
        curate(replace(arguments, checkpoint_seconds=300, output_dir=str(tmp_path / "store")))

    assert not (tmp_path / "store" / ".work").exists()


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_twenty_kills_at_random_moments_change_no_byte(arguments: CurationArguments, tmp_path: Path) -> None:
    recipe = arguments.source_recipe | {"num_steps": 1200, "batch_size": 8}
    long = replace(
        arguments, source_recipe=recipe, target_recipe=recipe, num_snapshots=100, checkpoint_seconds=0.1, pack=5
    )
    store = tmp_path / "store"
    script = tmp_path / "curate.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), json.dumps(asdict(replace(long, output_dir=str(store))))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    generator = random.Random(0)

    def work_files() -> list[str]:
        return sorted(path.name for path in store.glob(".work/*/*"))

    steps = []
    for kill in range(20):
        before = work_files()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            while kill % 4 and work_files() == before and process.poll() is None:  # most kills find it at training
                time.sleep(0.002)
            time.sleep(generator.uniform(0.0, 0.5 if kill % 4 else 6.0))
            was_alive = process.poll() is None
            process.kill()
        assert was_alive
        assert not (store / "manifest.json").exists()
        found = list(store.glob(".work/*/checkpoint-*"))
        steps += [(path.parent.name, int(path.name.rpartition("-")[2])) for path in found]
        for path in store.glob("shards/*"):
            assert path.name.startswith(".") or is_whole(path)
    subprocess.run(command, check=True, capture_output=True, env=environment)
    curate(replace(long, output_dir=str(tmp_path / "undisturbed")))

    assert len(set(steps)) > 10  # kills found the packs at many steps, and what was done was not done again
    assert steps == sorted(steps)
    assert contents(store) == contents(tmp_path / "undisturbed")
