"""The frozen target and its texts, from a curated store's plan: what the functional objective judges adapters with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from gradtx_hf.finetuning import FineTuningRecipe, load_language_model
from gradtx_hf.finetuning.public_data import public_examples, rows_of_shadow_set, tokenize_corpora
from gradtx_hf.lora import Adapter
from gradtx_hf.training.functional import FunctionalObjective
from gradtx_hf.training.functional_data import ShadowTexts, TokenRows
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import UpdateStore


@dataclass(frozen=True, eq=False)
class FunctionalTarget:
    """What the functional objective needs besides a store's updates.

    Attributes:
        objective: The frozen target.
        texts: The public data of the shadow sets, tokenized for it.
    """

    objective: FunctionalObjective
    texts: ShadowTexts


def load_functional_target(
    store: UpdateStore,
    target_init: Adapter,
    *,
    layout: BlockLayout,
    device: torch.device | None = None,
    with_checkpointing: bool = False,
) -> FunctionalTarget:
    """Load the target and tokenize the public data as the store's target runs would.

    Args:
        store: A store that ``curate`` made; its data and its target must still be where they were.
        target_init: Its initial target adapter, which names the target.
        layout: What stands where in the tokens that the translator generates.
        device: Where the translator is trained; None: a GPU if there is one.
        with_checkpointing: Whether the target recomputes activations in the backward pass.

    Raises:
        MissingFileError: If the target or a corpus is no longer there.
        DataError: If a corpus has changed, or cannot be tokenized.
        StoreError: If the store was not made by ``curate``.
    """
    corpora = public_examples(store)
    recipe = FineTuningRecipe.from_dict(store.plan["target"]["recipe"])
    model, tokenizer = load_language_model(
        target_init.base_model, revision=target_init.config.revision, max_length=recipe.max_length
    )
    if device is not None:
        model = model.to(device)  # type: ignore[arg-type]  # hidden behind a wrapper
    texts = shadow_texts(store, corpora, tokenizer, max_length=recipe.max_length)
    objective = FunctionalObjective(model, target_init, layout, with_checkpointing=with_checkpointing)
    return FunctionalTarget(objective, texts)


def shadow_texts(
    store: UpdateStore, corpora: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> ShadowTexts:
    """Return the public data of a store's shadow sets as a target reads them.

    Args:
        store: The store.
        corpora: Its data, from ``public_examples``.
        tokenizer: The target's tokenizer.
        max_length: Most tokens of a row.

    Raises:
        DataError: If a corpus cannot be tokenized.
    """
    tokenized = tokenize_corpora(corpora, tokenizer, max_length=max_length)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return ShadowTexts(
        rows=TokenRows(tokenized, padding=int(padding)),
        of_set=tuple(torch.tensor(rows_of_shadow_set(store.plan, k)) for k in range(store.num_shadow_sets)),
    )
