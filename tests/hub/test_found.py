"""What a card's metadata say of a translator, whatever they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradtx_hf.hub import FoundTranslator
from tests.hub.found_cards import HOSTILE_TEXT, SOURCE, TARGET, measured, metadata, results


def entry(card: object, **changes: object) -> dict[str, Any]:
    """Return an entry of the Hub's list of models."""
    return {
        "id": "finders/translator",
        "sha": "a" * 40,
        "lastModified": "2026-01-02T03:04:05.000Z",
        "cardData": card,
    } | changes


@pytest.mark.parametrize(
    "card",
    [
        None,
        [],
        "text",
        {},
        {"gradtx_hf": None},
        {"gradtx_hf": [1]},
        metadata(source=None),
        metadata(source=[SOURCE]),
        metadata(target={"id": TARGET}),
        metadata(target=HOSTILE_TEXT),
        metadata(target="../../etc"),
        metadata(target="a/b/c"),
        metadata(target="x" * 1000),
    ],
)
def test_a_card_of_something_else_is_passed_over(card: object) -> None:
    assert FoundTranslator.read(entry(card)) is None


@pytest.mark.parametrize("item", [None, 1, "x", [], {}, entry(metadata(), id=None), entry(metadata(), id="\x1b[31m/x")])
def test_an_entry_that_is_none_is_passed_over(item: object) -> None:
    assert FoundTranslator.read(item) is None


@pytest.mark.parametrize(
    "index",
    [
        None,
        7,
        {},
        [None, 1, "x", []],
        [{"results": {}}],
        [{"results": [None, 1, {"metrics": 1}, {"metrics": [None, {}]}, {"dataset": [], "metrics": {}}]}],
        *[measured(results(value)) for value in (None, "0.9", True, [1], {}, float("nan"), float("inf"), 1e300)],
        measured(results(10**400)),
        measured(results(-(10**400))),
    ],
)
def test_senseless_results_are_no_measurement(index: object) -> None:
    found = FoundTranslator.read(entry(metadata(**{"model-index": index})))

    assert found is not None
    assert found.measured is None


def test_results_may_stand_beside_the_metadata() -> None:
    found = FoundTranslator.read(entry(metadata(), **{"model-index": measured(results(0.25))}))

    assert found is not None
    assert found.measured is not None
    assert found.measured.gain_recovered == 0.25


def test_senseless_names_and_dates_do_no_harm() -> None:
    dataset = {"type": [1], "name": HOSTILE_TEXT}
    metrics = [
        {"type": {}, "name": "{}, translated", "value": 1},
        {"type": "", "name": ", translated", "value": 1},
        {"type": "gain_recovered", "value": 0.5},
        {"type": HOSTILE_TEXT, "name": f"{HOSTILE_TEXT}, translated", "value": "1"},
    ]
    card = metadata(**{"model-index": [{"results": [{"dataset": dataset, "metrics": metrics}]}]})

    found = FoundTranslator.read(entry(card, lastModified="yesterday", sha="\x1b", private="yes", gated="manual"))

    assert found is not None
    assert found.measured is not None
    assert (found.last_modified, found.commit, found.is_private, found.is_gated) == (None, None, False, True)
    assert (found.measured.dataset_type, found.measured.score) == ("not stated", None)
    for name in (found.measured.dataset, found.measured.metric):
        assert name is not None
        assert name.isprintable()
        assert len(name) < 300
    assert json.loads(json.dumps(found.to_json()))["measured"]["gain_recovered"] == 0.5


@pytest.mark.parametrize("index", [None, measured(results(0.5))])
def test_among_equals_the_newest_comes_first_and_one_without_a_date_last(index: object) -> None:
    dates = ["2026-01-02T03:04:05.001Z", "2026-01-02T03:04:05.000Z", "2025-12-31T23:59:59.000Z", None]

    found = [FoundTranslator.read(entry(metadata(**{"model-index": index}), lastModified=date)) for date in dates]

    ranks = [translator.rank for translator in found if translator is not None]
    assert len(ranks) == len(dates)
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(dates)
