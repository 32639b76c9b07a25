"""The pooled public data of a store, and the refusal of data that have changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gradtx_hf.curation import pooled_public_examples
from gradtx_hf.errors import DataError, MissingFileError
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
