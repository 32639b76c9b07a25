"""A damaged store of updates: used, or refused with one line of ours."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from gradtx_hf.errors import GradTxError, StoreError
from gradtx_hf.updates.store import SIDES, UpdateStore
from tests.security.folders import files_of
from tests.security.guard import watched
from tests.security.mutations import Mutator, write_files
from tests.updates.test_store import filled


NUM_MUTANTS = 300


def use(folder: Path) -> str:
    """Return ``read`` or the kind of refusal; anything else is raised."""
    try:
        store = UpdateStore.open(folder)
        for side in SIDES:
            for shadow_set in store.shadow_sets(side):
                store.read(side, shadow_set)
                store.info(side, shadow_set)
        assert store.pairs
        store.verify()
    except GradTxError as error:
        return type(error).__name__ if str(error).isprintable() else "not one line"
    return "read"


def test_any_damage_is_used_or_refused(tmp_path: Path) -> None:
    filled(tmp_path / "good")
    mutator = Mutator(files_of(tmp_path / "good"), tmp_path / "nowhere")
    outcomes: Counter[str] = Counter()

    for seed in range(NUM_MUTANTS):
        files = {name: held for name, held in mutator.mutate(seed).items() if isinstance(held, bytes)}  # without links
        (tmp_path / "mutant").mkdir()
        write_files(tmp_path / "mutant", files)  # type: ignore[arg-type]
        with watched(tmp_path / "mutant") as seen:
            outcomes[use(tmp_path / "mutant")] += 1
        assert seen.misdeeds == [], f"seed {seed}"
        shutil.rmtree(tmp_path / "mutant")

    assert outcomes["read"] > 0
    assert outcomes["not one line"] == 0
    assert outcomes["StoreError"] > NUM_MUTANTS // 2


@pytest.mark.parametrize("num_shadow_sets", [10**9, -1, 2.0, None, "2", True])
def test_an_absurd_number_of_shadow_sets_is_refused(num_shadow_sets: object, tmp_path: Path) -> None:
    filled(tmp_path)
    values = json.loads((tmp_path / "plan.json").read_text())
    values["plan"]["num_shadow_sets"] = num_shadow_sets
    (tmp_path / "plan.json").write_text(json.dumps(values))

    with pytest.raises(StoreError, match="is damaged: it lacks a layout, or num_shadow_sets"):
        UpdateStore.open(tmp_path)
