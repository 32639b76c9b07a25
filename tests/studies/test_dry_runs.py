"""Every study goes its whole way at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradtx_hf.studies.catalogue import STUDIES
from gradtx_hf.studies.cells import Study
from gradtx_hf.studies.paper.definition import paper_study_names
from gradtx_hf.studies.runnable import WHOLE, Request, find_runnable
from gradtx_hf.studies.tiny import MOST_OF_WORLD, TRAINING, tiny_study


NAMES = [*STUDIES, *WHOLE, *paper_study_names()]


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_cell_is_small_and_says_so(study: Study) -> None:
    tiny = tiny_study(study)
    assert [cell.name for cell in tiny.cells] == [cell.name for cell in study.cells]
    assert "No number here means anything" in tiny.note
    for cell in tiny.cells:
        world, clients, training = tiny.world_of(cell), tiny.clients_of(cell), tiny.training_of(cell)
        assert world.num_shadow_sets <= MOST_OF_WORLD["num_rules"] * MOST_OF_WORLD["runs_per_rule"]
        assert world.source_recipe["num_steps"] == clients.num_ceiling_steps == training["max_steps"] == 2
        assert training["d_model"] == TRAINING["d_model"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_study_goes_its_whole_way(name: str, tmp_path: Path) -> None:
    study = find_runnable(name)
    outcome = study.run(tmp_path / name, Request(num_workers=1, is_dry_run=True))
    assert not outcome.failures
    assert set(outcome.missing) == set(study.cells) - set(study.kinds)
