"""The public data of a curation as one set: what a provider could fine-tune the target on without any client."""

from __future__ import annotations

from datasets import Dataset, concatenate_datasets

from gradtx_hf.curation.digest import sha256_of_rows
from gradtx_hf.errors import DataError
from gradtx_hf.finetuning import DataSource, load_examples
from gradtx_hf.updates.store import UpdateStore


def pooled_public_examples(store: UpdateStore) -> Dataset:
    """Load every row that some shadow set of a store holds, each once, in the order of the corpora.

    Args:
        store: A store that ``curate`` made; its data must still be where they were.

    Raises:
        MissingFileError: If a corpus is no longer there.
        DataError: If a corpus no longer has the rows that it had, by their SHA-256 in the plan.
    """
    parts = []
    for corpus in store.plan["corpora"]:
        label = corpus["label"]
        rows = sorted({row for chosen in store.plan["shadow_sets"] for row in chosen.get(label, ())})
        if not rows:
            continue
        known = {key: value for key, value in corpus.items() if key not in ("label", "num_rows", "sha256")}
        examples = load_examples(DataSource.from_dict(known))
        if len(examples) != corpus["num_rows"]:
            raise DataError(
                f"corpus '{label}' has {len(examples)} rows now, it had {corpus['num_rows']} when "
                f"'{store.folder}' was curated. Put the old data back, or curate again."
            )
        if sha256_of_rows(examples) != corpus["sha256"]:
            raise DataError(
                f"the rows of corpus '{label}' are not those that '{store.folder}' was curated from: their content "
                "has changed. Put the old data back, or curate again."
            )
        parts.append(examples.select(rows))
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]
