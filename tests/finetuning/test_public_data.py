"""The public data of a store, and the refusal of data that have changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gradtx_hf.errors import DataError, MissingFileError, StoreError
from gradtx_hf.finetuning import DataSource, load_examples, tokenize_examples
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.finetuning.public_data import (
    pooled_public_examples,
    public_examples,
    rows_of_shadow_set,
    sha256_of_rows,
    tokenize_corpora,
)
from gradtx_hf.updates.store import PLAN_FILE, UpdateStore
from tests.cli.story import story
from tests.curation.world import RULES


@pytest.fixture
def store(tmp_path: Path) -> UpdateStore:
    """Return a store with corpora of its own, a file per rule beside it."""
    folder = shutil.copytree(story().store, tmp_path / "store")
    values = json.loads((folder / PLAN_FILE).read_text())
    for corpus in values["plan"]["corpora"]:
        corpus["path"] = str(shutil.copy(corpus["path"], tmp_path))
    (folder / PLAN_FILE).write_text(json.dumps(values))
    return UpdateStore.open(folder)


def lines_of(store: UpdateStore, name: str) -> list[str]:
    return (store.folder.parent / name).read_text().splitlines()


def test_every_row_of_a_shadow_set_comes_once_in_the_order_of_the_corpora(store: UpdateStore) -> None:
    rows = [json.loads(line) for rule in RULES for line in lines_of(store, f"{rule.name}.jsonl")]
    used = [
        24 * i + row
        for i, rule in enumerate(RULES)
        for row in sorted({n for chosen in store.plan["shadow_sets"] for n in chosen.get(rule.name, ())})
    ]

    assert list(pooled_public_examples(store)) == [rows[i] for i in used]


def test_corpora_come_by_label_in_the_order_of_the_plan(store: UpdateStore) -> None:
    corpora = public_examples(store)

    assert list(corpora) == [rule.name for rule in RULES]
    for rule in RULES:
        assert list(corpora[rule.name]) == [json.loads(line) for line in lines_of(store, f"{rule.name}.jsonl")]


def test_tokens_of_a_shadow_set_are_those_of_its_rows(store: UpdateStore) -> None:
    tokenizer = load_tokenizer(story().curation["target_model"])
    tokens = tokenize_corpora(public_examples(store), tokenizer, max_length=32)

    for k, chosen in enumerate(store.plan["shadow_sets"]):
        ((label, rows),) = chosen.items()
        path = store.folder.parent / f"{label}.jsonl"
        expected = tokenize_examples(load_examples(DataSource(str(path))), tokenizer, max_length=32).select(rows)
        assert list(tokens.select(rows_of_shadow_set(store.plan, k))) == list(expected)
    assert len(tokens) == 48


def test_rows_are_counted_through_corpora_that_a_set_does_not_hold() -> None:
    plan = {
        "corpora": [{"label": label, "num_rows": n} for label, n in (("a", 5), ("b", 7), ("c", 2))],
        "shadow_sets": [{"c": [1, 0], "a": [4, 2]}, {"b": [6]}, {"b": [0], "c": [1]}],
    }

    assert [rows_of_shadow_set(plan, k) for k in range(3)] == [(4, 2, 13, 12), (11,), (5, 13)]


def test_digest_tells_rows_and_their_order_apart_and_not_their_file(store: UpdateStore) -> None:
    examples = public_examples(store)["identity+1"]

    assert sha256_of_rows(examples) == store.plan["corpora"][1]["sha256"]
    assert sha256_of_rows(examples.select(range(23, -1, -1))) != sha256_of_rows(examples)
    assert sha256_of_rows(examples.select(range(23))) != sha256_of_rows(examples)


def test_store_of_another_making_is_refused(store: UpdateStore) -> None:
    del store.plan["corpora"]

    with pytest.raises(StoreError, match="was not made by gradtx curate"):
        public_examples(store)


def test_other_content_of_as_many_rows_is_refused(store: UpdateStore) -> None:
    lines = lines_of(store, "identity+1.jsonl")
    row = json.loads(lines[0])
    lines[0] = json.dumps(row | {"completion": row["completion"][::-1] + "x"})
    (store.folder.parent / "identity+1.jsonl").write_text("\n".join(lines) + "\n")

    with pytest.raises(DataError, match=r"corpus 'identity\+1' .* content has changed") as caught:
        pooled_public_examples(store)

    assert "\n" not in str(caught.value)


def test_fewer_rows_and_no_rows_are_refused(store: UpdateStore) -> None:
    file = store.folder.parent / "reverse+3.jsonl"
    file.write_text("\n".join(lines_of(store, "reverse+3.jsonl")[:-1]) + "\n")

    with pytest.raises(DataError, match="has 23 rows now, it had 24"):
        pooled_public_examples(store)
    file.unlink()
    with pytest.raises(MissingFileError, match=r"reverse\+3\.jsonl' is not there"):
        pooled_public_examples(store)


def test_the_same_rows_in_another_layout_are_the_same(store: UpdateStore) -> None:
    file = store.folder.parent / "reverse+3.jsonl"
    expected = list(pooled_public_examples(store))
    rows = [json.loads(line) for line in lines_of(store, "reverse+3.jsonl")]
    file.write_text("".join(json.dumps(dict(reversed(row.items()))) + "  \n" for row in rows))

    assert list(pooled_public_examples(store)) == expected
