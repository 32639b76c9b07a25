"""What the functional objective reads: source updates, each with lines of the shadow set that it was trained on.

Axes: B adapters, R examples of each, T tokens, N_S / N_T blocks, D_S / D_T size of the largest block. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset as TokenizedDataset
from torch import Tensor
from torch.utils.data import Dataset

from gradtx_hf.errors import DataError
from gradtx_hf.finetuning.encoding import IGNORED
from gradtx_hf.training.data import Pair, PairStore


class TokenRows:
    """Tokenized rows of uneven length, in two flat tensors.

    Args:
        tokenized: Rows with ``input_ids`` and ``labels``, from ``tokenize_examples``.
        padding: Token id that pads; it is masked, so any id serves.
    """

    def __init__(self, tokenized: TokenizedDataset, *, padding: int) -> None:
        table = tokenized.with_format("arrow")[:]
        ids, labels = (table[name].combine_chunks() for name in ("input_ids", "labels"))
        lengths = torch.tensor(ids.value_lengths().to_numpy()).long()
        self._starts = lengths.cumsum(0) - lengths
        self._lengths = lengths
        self._ids, self._labels = (torch.tensor(column.flatten().to_numpy()) for column in (ids, labels))
        self._padding = padding

    def __len__(self) -> int:
        return len(self._lengths)

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the rows of the given numbers, padded on the right to the longest.

        Args:
            rows: Row numbers ``[B, R]``.

        Returns:
            ``input_ids`` and ``labels`` ``[B, R, T]``, and ``attention_mask`` ``[B, R, T]`` where a row is padded.
        """
        lengths = self._lengths[rows][..., None]  # [B, R, 1]
        places = torch.arange(int(lengths.max()))
        is_token = places < lengths
        flat = (self._starts[rows][..., None] + places) * is_token
        batch = {
            "input_ids": torch.where(is_token, self._ids[flat].long(), self._padding),
            "labels": torch.where(is_token, self._labels[flat].long(), IGNORED),
        }
        return batch if bool(is_token.all()) else batch | {"attention_mask": is_token.long()}


@dataclass(frozen=True, eq=False)
class ShadowTexts:
    """The public data as the target reads them.

    Attributes:
        rows: All rows of all corpora, tokenized by the target's tokenizer.
        of_set: For each shadow set the numbers of its rows.
    """

    rows: TokenRows
    of_set: tuple[Tensor, ...]


class FunctionalDataset(Dataset[dict[str, Tensor]]):
    """Source updates of a store, each with examples of its own shadow set.

    Args:
        store: Where the updates are.
        snapshots: The (shadow set, snapshot) of the source updates of this data set.
        texts: The public data.
        num_examples: R, examples per update.
        is_fixed: Whether an update always comes with the first R examples of its set; else with R drawn from torch's
            own generator, whose state Trainer saves with each checkpoint.
        with_targets: Whether an update comes with the target update of its shadow set, if there is one.

    Raises:
        StoreError: If a shard of these updates is damaged.
    """

    def __init__(
        self,
        store: PairStore,
        snapshots: Sequence[Pair],
        texts: ShadowTexts,
        *,
        num_examples: int,
        is_fixed: bool = False,
        with_targets: bool = False,
    ) -> None:
        self._store = store
        self._snapshots = torch.tensor(list(snapshots), dtype=torch.long).reshape(-1, 2)
        self._texts = texts
        self._num_examples = num_examples
        self._is_fixed = is_fixed
        self._paired = frozenset(store.pairs) if with_targets else None
        for shadow_set in sorted({shadow_set for shadow_set, _ in snapshots}):
            store.check("source", shadow_set)
            if len(texts.of_set[shadow_set]) == 0:
                raise DataError(f"shadow set {shadow_set} has no rows to train the target's adapter on. Curate again.")

    def __len__(self) -> int:
        return len(self._snapshots)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``source_blocks`` ``[N_S, D_S]`` and the numbers of its ``rows`` ``[R]``.

        With targets also ``target_blocks`` ``[N_T, D_T]``, NaN where the shadow set has no target run.
        """
        shadow_set, snapshot = self._snapshots[index].tolist()
        own = self._texts.of_set[shadow_set]
        if self._is_fixed:
            chosen = torch.arange(self._num_examples) % len(own)
        else:
            chosen = torch.randint(len(own), (self._num_examples,))
        item = {"source_blocks": self._store.snapshot("source", shadow_set, snapshot), "rows": own[chosen]}
        if self._paired is not None:
            is_paired = (shadow_set, snapshot) in self._paired
            layout = self._store.target_layout
            item["target_blocks"] = (
                self._store.snapshot("target", shadow_set, snapshot)
                if is_paired
                else torch.full((layout.num_blocks, layout.block_dim), torch.nan)
            )
        return item

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack items, and put the tokens in the place of the rows' numbers (see ``TokenRows.gather``)."""
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        return batch | self._texts.rows.gather(batch.pop("rows"))
