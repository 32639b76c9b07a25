"""The public data of an update store: its corpora as they were at the curation, and the rows of each shadow set.

A store's plan names every corpus with its number of rows and their digest, and for every shadow set the rows that it
holds of each corpus. Curation writes that, and whoever trains on a store's public data reads it here.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from gradtx_hf.errors import DataError, StoreError
from gradtx_hf.finetuning.data import DataSource, load_examples
from gradtx_hf.finetuning.encoding import tokenize_examples
from gradtx_hf.updates.store import UpdateStore


def describe_corpus(label: str, source: DataSource, examples: Dataset) -> dict[str, Any]:
    """Return what a plan says of a corpus, as JSON values: its source, its label, and what tells whether it changed."""
    return source.to_dict() | {"label": label, "num_rows": len(examples), "sha256": sha256_of_rows(examples)}


def sha256_of_rows(examples: Dataset) -> str:
    """Return the SHA-256 of the examples as they are used, in hexadecimal digits, whatever file they lie in."""
    digest = hashlib.sha256()
    for batch in examples.iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            digest.update(json.dumps(dict(zip(batch, values, strict=True)), sort_keys=True).encode())
    return digest.hexdigest()


def public_examples(store: UpdateStore) -> dict[str, Dataset]:
    """Load every corpus of a store, by label, in the order of the plan.

    Args:
        store: A store that ``curate`` made; its data must still be where they were, or lie in its folder.

    Raises:
        MissingFileError: If a corpus is no longer there.
        DataError: If a corpus no longer has the rows that it had, by their SHA-256 in the plan.
        StoreError: If the store was not made by ``curate``.
    """
    if not {"corpora", "shadow_sets"} <= store.plan.keys():
        raise StoreError(f"update store '{store.folder}' was not made by gradtx curate. Give one that was.")
    return {corpus["label"]: _load_unchanged(corpus, store.folder) for corpus in store.plan["corpora"]}


def pooled_public_examples(store: UpdateStore) -> Dataset:
    """Load every row that some shadow set of a store holds, each once, in the order of the corpora.

    That is what a provider could fine-tune the target on without any client.

    Args:
        store: A store that ``curate`` made; its data must still be where they were.

    Raises:
        MissingFileError: If a corpus is no longer there.
        DataError: If a corpus no longer has the rows that it had, by their SHA-256 in the plan.
        StoreError: If the store was not made by ``curate``.
    """
    parts = []
    for label, examples in public_examples(store).items():
        rows = sorted({row for chosen in store.plan["shadow_sets"] for row in chosen.get(label, ())})
        if rows:
            parts.append(examples.select(rows))
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def tokenize_corpora(
    corpora: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    rows: Sequence[int] | None = None,
) -> Dataset:
    """Tokenize corpora into one data set, one after the other.

    Args:
        corpora: The examples by label, in the order of the plan, such as ``public_examples`` returns.
        tokenizer: The tokenizer of the model that is to learn from them.
        max_length: Most tokens per example.
        rows: Numbers of rows, ascending and at least one, as ``rows_of_shadow_set`` counts them; None: all.

    Returns:
        As many rows, with ``input_ids`` and ``labels``.

    Raises:
        DataError: If a corpus cannot be tokenized (see ``tokenize_examples``).
    """
    parts, first = [], 0
    for examples in corpora.values():
        end = first + len(examples)
        if rows is not None:
            own = rows[bisect_left(rows, first) : bisect_left(rows, end)]
            examples = examples.select([row - first for row in own])
        if len(examples):
            parts.append(tokenize_examples(examples, tokenizer, max_length=max_length))
        first = end
    return concatenate_datasets(parts)


def rows_of_shadow_set(plan: Mapping[str, Any], shadow_set: int) -> tuple[int, ...]:
    """Return a shadow set's rows, counted through all corpora, one after the other in the order of the plan.

    Args:
        plan: The plan of a store that ``curate`` made.
        shadow_set: Number of the shadow set, from 0.
    """
    corpora = plan["corpora"]
    firsts = accumulate((corpus["num_rows"] for corpus in corpora), initial=0)
    chosen = plan["shadow_sets"][shadow_set]
    return tuple(
        first + row
        for corpus, first in zip(corpora, firsts, strict=False)  # the last of the firsts is the end
        for row in chosen.get(corpus["label"], ())
    )


def _load_unchanged(corpus: Mapping[str, Any], folder: Path) -> Dataset:
    """Load one corpus of the plan of the store in a folder."""
    label = corpus["label"]
    known = {key: value for key, value in corpus.items() if key not in ("label", "num_rows", "sha256")}
    own = folder / corpus["path"]  # of a pulled store: public data that are not on the Hub are put into its folder
    examples = load_examples(DataSource.from_dict(known | ({"path": str(own)} if own.exists() else {})))
    if len(examples) != corpus["num_rows"]:
        raise DataError(
            f"corpus '{label}' has {len(examples)} rows now, it had {corpus['num_rows']} when '{folder}' was curated. "
            "Put the old data back, or curate again."
        )
    if sha256_of_rows(examples) != corpus["sha256"]:
        raise DataError(
            f"the rows of corpus '{label}' are not those that '{folder}' was curated from: their content has changed. "
            "Put the old data back, or curate again."
        )
    return examples
