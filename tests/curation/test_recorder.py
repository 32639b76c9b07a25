from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradtx_hf.curation import SnapshotRecorder
from gradtx_hf.updates import BlockLayout, encode_update


SHAPES = {f"layers.{n}.q.lora_{letter}": shape for n in range(2) for letter, shape in (("A", (2, 3)), ("B", (5, 2)))}
LAYOUT = BlockLayout.from_shapes(SHAPES)
START = {name: torch.full(shape, 0.25) for name, shape in SHAPES.items()}
LAST_STEPS = {0: 9, 1: 3, 2: 9, 3: 6}  # by run
NUM_SNAPSHOTS = 4


def factors_of(run: int, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * run + step)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def running_at(step: int) -> list[int]:
    return [run for run, last in LAST_STEPS.items() if step <= last]


def show(recorder: SnapshotRecorder, steps: range) -> None:
    for step in steps:
        each = [factors_of(run, step) for run in running_at(step)]
        recorder.record(step, running_at(step), {name: torch.stack([one[name] for one in each]) for name in SHAPES})


def expected_updates() -> Mapping[int, Tensor]:
    start = encode_update(START, LAYOUT)
    return {
        run: torch.stack(
            [
                encode_update(factors_of(run, step), LAYOUT) - start
                for step in range(max(1, last - NUM_SNAPSHOTS + 1), last + 1)
            ]
        )
        for run, last in LAST_STEPS.items()
    }


def make_recorder(folder: Path, *, spill_bytes: int = 1 << 20) -> SnapshotRecorder:
    return SnapshotRecorder(START, LAYOUT, num_snapshots=NUM_SNAPSHOTS, folder=folder, spill_bytes=spill_bytes)


def check(recorder: SnapshotRecorder) -> None:
    for run, updates in expected_updates().items():
        assert torch.equal(recorder.updates(run), updates)


@pytest.mark.parametrize("spill_bytes", [1 << 20, 700, 0])
def test_last_steps_of_every_run_are_kept_wherever_they_are(tmp_path: Path, spill_bytes: int) -> None:
    recorder = make_recorder(tmp_path / "work", spill_bytes=spill_bytes)

    show(recorder, range(1, 10))

    check(recorder)
    assert (tmp_path / "work").exists() == (spill_bytes < 1 << 20)


def test_memory_and_disk_hold_no_step_that_no_run_needs(tmp_path: Path) -> None:
    recorder = make_recorder(tmp_path, spill_bytes=0)

    show(recorder, range(1, 10))

    # steps 6 to 9 of runs 0 and 2, 1 to 3 of run 1, 3 to 6 of run 3
    assert {int(path.stem[-8:]) for path in tmp_path.iterdir()} == {1, 2, 3, 4, 5, 6, 7, 8, 9}
    longer = make_recorder(tmp_path / "longer", spill_bytes=0)
    for step in range(1, 30):
        longer.record(step, [0], {name: tensor[None] for name, tensor in factors_of(0, step).items()})
    assert len(list((tmp_path / "longer").iterdir())) == NUM_SNAPSHOTS


@pytest.mark.parametrize("checkpoints", [[2], [1, 5], [3, 4, 8]])
def test_recorder_goes_on_from_every_checkpoint(tmp_path: Path, checkpoints: list[int]) -> None:
    first = 1
    state = None
    for step in checkpoints:
        recorder = make_recorder(tmp_path, spill_bytes=700)  # a new process
        if state is not None:
            recorder.restore(state)
        show(recorder, range(first, step + 1))
        state = recorder.state()
        show(recorder, range(step + 1, 10))  # what is lost with the process
        first = step + 1
    assert state is not None

    last = make_recorder(tmp_path, spill_bytes=700)
    last.restore(state)
    show(last, range(first, 10))

    check(last)


def test_checkpoint_before_is_whole_until_the_next_is_written(tmp_path: Path) -> None:
    recorder = make_recorder(tmp_path)
    show(recorder, range(1, 4))
    before = recorder.state()
    show(recorder, range(4, 9))
    recorder.state()  # and the process ends before it is part of a checkpoint

    again = make_recorder(tmp_path)
    again.restore(before)
    show(again, range(4, 10))

    check(again)
