"""Of five clients of one rule one sends something else: which rules the others' gain survives.

The embedded target, untouched, knows none of the rules, so its exact match with the translated adapter is the gain.
The start is not checked here: the check alone refuses an update as large as ``scaled`` and ``large random``.
"""

from __future__ import annotations

import pytest

from gradtx_hf.errors import AdapterError
from gradtx_hf.translation import Aggregation
from tests.translation.federation import ATTACKS, Federation, seen_rule


KEPT = 0.9
"""Least share of the clean gain that a robust rule keeps."""
ROBUST = ("median", "trimmed_mean")
SIZE_ONLY = ("scaled", "random", "large random")
"""What clipping withstands: of the clients' norm, an update that points the other way passes."""


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation.of(seen_rule(5))


@pytest.fixture(scope="module")
def clean(federation: Federation) -> float:
    score = gain(federation, None, "mean")
    assert score > 0.9
    return score


def gain(federation: Federation, attack: str | None, rule: Aggregation) -> float:
    clients = federation.clients if attack is None else federation.attacked(attack)
    return federation.score(federation.translator.translate(clients, aggregation=rule, allow_other_start=True).tensors)


@pytest.mark.parametrize("attack", ["scaled", "flipped"])
def test_robust_rules_keep_the_gain_that_the_mean_loses(federation: Federation, clean: float, attack: str) -> None:
    scores = {rule: gain(federation, attack, rule) for rule in ("mean", *ROBUST)}  # type: ignore[arg-type]

    assert scores["mean"] < KEPT * clean
    assert all(scores[rule] >= KEPT * clean for rule in ROBUST), scores


def test_the_bad_one_is_named_and_no_other(federation: Federation) -> None:
    for attack in (None, *ATTACKS):
        clients = federation.clients if attack is None else federation.attacked(attack)
        warnings = federation.translator.translate(clients, allow_other_start=True).report["warnings"]

        apart = [warning for warning in warnings if "lies apart" in warning]
        assert [warning.split("'")[1] for warning in apart] == ([] if attack is None else ["the bad one"])


def test_the_check_of_the_start_alone_leaves_out_a_scaled_update(federation: Federation) -> None:
    clients = federation.attacked("scaled")

    with pytest.raises(AdapterError, match="'the bad one' did not start from"):
        federation.translator.translate(clients)
    report = federation.translator.translate(clients, skip_invalid=True).report
    assert [entry["name"] for entry in report["skipped"]] == ["the bad one"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [5, 40])
def test_every_rule_withstands_what_it_is_there_for(number: int) -> None:
    federation = Federation.of(seen_rule(number))
    clean = gain(federation, None, "mean")

    for attack in ATTACKS:
        for rule in (*ROBUST, "clipped_mean"):
            if rule in ROBUST or attack in SIZE_ONLY:
                assert gain(federation, attack, rule) >= KEPT * clean, (attack, rule)  # type: ignore[arg-type]
    assert gain(federation, "scaled", "mean") == gain(federation, "large random", "mean") == 0
    assert gain(federation, "flipped", "mean") < 0.9 * clean
    assert gain(federation, "flipped", "clipped_mean") < 0.9 * clean
