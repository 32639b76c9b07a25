from __future__ import annotations

import pytest

from gradtx_hf.studies.kinds import one_of_each_kind


def test_cells_that_differ_in_numbers_and_tasks_alone_are_of_one_kind() -> None:
    cells = {
        "small": {"world": {"num_rules": 9}, "model": "Qwen2.5-3B", "data": [{"task": "drop"}]},
        "large": {"world": {"num_rules": 108}, "model": "Qwen2.5-7B", "data": [{"task": "samsum"}]},
    }
    assert one_of_each_kind(cells) == ["small"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"num_target_runs": 0}, {"num_target_runs": 8}),
        ({"privacy": {"epsilon": 8.0}}, {"privacy": {}}),
        ({"rule": "mean"}, {"rule": "median"}),
        ({"whiten": True}, {"whiten": False}),
        ({"epochs": None}, {"epochs": 3}),
    ],
)
def test_what_goes_another_way_is_another_kind(one: dict[str, object], other: dict[str, object]) -> None:
    assert one_of_each_kind({"one": one, "other": other}) == ["one", "other"]
