"""How far private texts lie from public ones, measured where the private ones are: nothing is sent anywhere.

Both are formatted as fine-tuning formats them, read by the untouched source model, and averaged over their tokens'
last hidden states; then a classifier is asked to tell them apart (see ``two_sample``). That estimates the term
KL(private || public) of the paper's Theorem 5.2 from below: an embedding shows no more of a shift than the texts have.

It compares texts, not tasks: private rows that look like the public ones may ask for something that no shadow set
taught, and rows that look different may be translated well. Axes: B rows of a batch, T tokens, H hidden size.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import tokenize_examples
from gradtx_hf.privacy.two_sample import NUM_FOLDS, TwoSampleResult, compare_samples


LEAST_ROWS = 50
"""Of either side: with fewer, chance alone makes an AUC of 0.6."""
LARGEST_CHANCE = 0.05
"""A p-value above it counts as no shift found."""
CLEAR_AUC, LARGE_AUC = 0.65, 0.85
"""From which a shift is called clear, and large: words for a reader, ours."""
LIMITS = (
    "This compares texts, not tasks: what looks alike may ask for something that no shadow set taught, and what looks "
    "different may be translated well. Score the translated adapter on rows of your own to know."
)

Ids = tuple[int, ...]


@dataclass(frozen=True)
class ShiftSettings:
    """How a shift is measured.

    Attributes:
        max_length: Most tokens per row, as in the recipe of the fine-tuning.
        max_rows: Most rows of either side; as many of both are drawn.
        num_permutations: Relabelled samples of the permutation test.
        batch_size: Rows at once.
        seed: Seed of the drawing and of the relabelling.
    """

    max_length: int = 512
    max_rows: int = 2000
    num_permutations: int = 199
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If one is out of its range.
        """
        for name, least in (("max_length", 2), ("max_rows", LEAST_ROWS), ("num_permutations", 19), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"got {name}={getattr(self, name)!r}, expected at least {least}.")


@dataclass(frozen=True)
class Shift:
    """What was measured.

    Attributes:
        result: The classifier's; the private rows are the first sample, so that ``kl`` is of private from public.
        num_rows: Rows of either side that were compared.
        num_private: Different private rows that there are.
        num_public: Different public rows that there are.
    """

    result: TwoSampleResult
    num_rows: int
    num_private: int
    num_public: int

    @property
    def is_found(self) -> bool:
        """Whether private rows are told from public ones better than by chance."""
        return self.result.p_value <= LARGEST_CHANCE

    @property
    def verdict(self) -> str:
        """What was found, in one sentence."""
        r = self.result
        numbers = (
            f"AUC {r.auc:.2f} [{r.auc_low:.2f}, {r.auc_high:.2f}], p = {r.p_value:.2g}, {self.num_rows:,} rows each"
        )
        if not self.is_found:
            return f"No shift found: private rows are told from public ones no better than by chance ({numbers})."
        size = "large" if r.auc >= LARGE_AUC else "clear" if r.auc >= CLEAR_AUC else "slight"
        return f"A {size} shift: private rows can be told from public ones ({numbers})."


def measure_shift(
    public: Sequence[Dataset],
    private: Dataset,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: ShiftSettings,
    show_progress: bool = False,
) -> Shift:
    """Measure how far private rows lie from public ones; a text counts once on either side.

    Args:
        public: Data sets of public examples, as ``load_examples`` makes them; all their rows count alike.
        private: The private examples.
        model: The source model, as it is before fine-tuning.
        tokenizer: Its tokenizer.
        settings: How to measure.
        show_progress: Show bars on stderr.

    Raises:
        DataError: If a side has too few different rows, or cannot be tokenized.
    """
    there = _rows(public, tokenizer, settings)
    own = _rows([private], tokenizer, settings)
    for name, rows in (("private", own), ("public", there)):
        if len(rows) < LEAST_ROWS:
            raise DataError(
                f"got {len(rows)} different rows of {name} data, expected at least {LEAST_ROWS}. Give more."
            )
    num_rows = min(settings.max_rows, len(own), len(there))
    drawn = [
        random.Random(f"{name} rows {settings.seed}").sample(rows, num_rows)
        for name, rows in (("private", own), ("public", there))
    ]
    embeddings = embed_rows(model, [*drawn[0], *drawn[1]], batch_size=settings.batch_size, show_progress=show_progress)
    result = compare_samples(
        embeddings[:num_rows],
        embeddings[num_rows:],
        folds=torch.tensor([_fold(ids) for rows in drawn for ids in rows]),
        num_permutations=settings.num_permutations,
        generator=torch.Generator().manual_seed(settings.seed),
        show_progress=show_progress,
    )
    return Shift(result, num_rows=num_rows, num_private=len(own), num_public=len(there))


@torch.no_grad()
def embed_rows(model: PreTrainedModel, rows: Sequence[Ids], *, batch_size: int, show_progress: bool = False) -> Tensor:
    """Return the mean of each row's last hidden states, over its own tokens.

    Args:
        model: A causal language model; put into evaluation mode.
        rows: Token ids of each row, at least one.
        batch_size: Rows at once.
        show_progress: Show a bar on stderr.

    Returns:
        ``[len(rows), H]`` in float32 on the CPU, in the order of the rows.
    """
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    embeddings: dict[int, Tensor] = {}
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="reading rows", file=sys.stderr, disable=not show_progress):
        chosen = order[start : start + batch_size]
        ids = [torch.tensor(rows[i], device=model.device) for i in chosen]
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)  # [B, T]
        output = model.base_model(input_ids=pad_sequence(ids, batch_first=True), attention_mask=mask, use_cache=False)
        states = output.last_hidden_state.float() * mask[..., None]  # [B, T, H]
        means = (states.sum(1) / mask.sum(1, keepdim=True)).cpu()  # [B, H]
        embeddings.update(zip(chosen, means, strict=True))
    return torch.stack([embeddings[i] for i in range(len(rows))])


def _rows(parts: Sequence[Dataset], tokenizer: PreTrainedTokenizerBase, settings: ShiftSettings) -> list[Ids]:
    """Return the token ids of every different row, in the order in which they first occur."""
    tokens = (tokenize_examples(examples, tokenizer, max_length=settings.max_length) for examples in parts)
    return list(dict.fromkeys(tuple(ids) for part in tokens for ids in part["input_ids"]))


def _fold(ids: Ids) -> int:
    """Return a row's fold: by its content, so that a text that both sides have is never held out from itself."""
    return hashlib.sha256(repr(ids).encode()).digest()[0] % NUM_FOLDS
