from __future__ import annotations

import pytest

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import FineTuningRecipe


NEEDED = {"num_steps": 5, "batch_size": 4, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("num_steps", "100", 100),
        ("num_steps", 1e3, 1000),
        ("num_steps", "1e3", 1000),
        ("batch_size", 8.0, 8),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("until_converged", "false", False),
        ("until_converged", "True", True),
        ("until_converged", False, False),
        ("schedule", "constant", "constant"),
    ],
)
def test_values_become_the_fields_type(name: str, given: object, value: object) -> None:
    got = getattr(FineTuningRecipe.from_dict(NEEDED | {name: given}), name)

    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("num_steps", 8.5, "a whole number"),
        ("num_steps", True, "a whole number"),
        ("num_steps", "many", "a whole number"),
        ("num_steps", float("inf"), "a whole number"),
        ("num_steps", None, "a whole number"),
        ("batch_size", [4], "a whole number"),
        ("learning_rate", True, "a number"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", {"peak": 1}, "a number"),
        ("until_converged", 1, "true or false"),
        ("until_converged", "maybe", "true or false"),
        ("until_converged", None, "true or false"),
        ("schedule", 1, "text"),
        ("schedule", ["linear"], "text"),
    ],
)
def test_another_type_is_refused_with_key_and_value(name: str, given: object, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FineTuningRecipe.from_dict(NEEDED | {name: given})

    assert str(caught.value) == f"got {name}={given!r} in a recipe, expected {expected}."


def test_a_value_out_of_range_is_refused_after_it_is_converted() -> None:
    with pytest.raises(ConfigurationError, match="got num_steps=0, expected at least 1"):
        FineTuningRecipe.from_dict(NEEDED | {"num_steps": "0"})
