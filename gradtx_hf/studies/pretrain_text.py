"""Pretrain a small and a large language model on texts, with a tokenizer of their own that both share.

A prompt and its completion are two texts here, in random order: the models know the language of the data, and not which
completion follows which prompt. Source: ours.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import DataSource, load_examples
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.updates.store import SIDES


logger = logging.getLogger(__name__)

PAD, EOS = "<pad>", "<eos>"
PRETRAINING_FILE = "pretraining.json"
MAX_POSITIONS = 1024
LAST_STEPS = 50
"""The loss that is noted is the mean over so many steps."""


@dataclass(frozen=True)
class TextModel:
    """The shape of a Llama model and how it is pretrained: AdamW with a one-cycle schedule.

    Attributes:
        hidden_size: Width; its heads have 16 dimensions, its feed-forward layers 8/3 of it.
        num_layers: Layers.
        num_steps: Optimizer steps.
        batch_size: Pieces of text per step.
        learning_rate: Peak learning rate.
    """

    hidden_size: int
    num_layers: int
    num_steps: int
    batch_size: int = 16
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If one is not positive, or the width is not of whole heads.
        """
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigurationError(f"got {field.name}={getattr(self, field.name)}, expected a positive number.")
        if self.hidden_size % 16:
            raise ConfigurationError(f"got hidden_size={self.hidden_size}, expected a multiple of 16.")


@dataclass(frozen=True)
class TextPretraining:
    """A pair of models to pretrain.

    Attributes:
        corpora: Their texts, as values of ``DataSource.from_dict``.
        source: The small model.
        target: The large model.
        vocab_size: Tokens of the byte-level BPE tokenizer, at most.
        piece_length: Tokens of a piece of text.
        seed: Seed of the weights and of the order of texts.
    """

    corpora: Sequence[Mapping[str, Any]]
    source: TextModel
    target: TextModel
    vocab_size: int = 1024
    piece_length: int = 192
    seed: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, corpora: Sequence[Mapping[str, Any]]) -> TextPretraining:
        """Build it from configuration values: those of the fields, without ``corpora``.

        Raises:
            ConfigurationError: If a key is unknown, missing, or a value cannot be used.
        """
        try:
            sides: dict[str, Any] = {side: TextModel(**values[side]) for side in SIDES}
            return cls(corpora=corpora, **{**values, **sides})
        except (TypeError, KeyError) as error:
            raise ConfigurationError(f"the pretraining's values do not fit: {error}.") from error


def pretrain_pair(pretraining: TextPretraining, folder: Path) -> None:
    """Write both models with their tokenizer into ``source`` and ``target``, those that are not there.

    Raises:
        DataError: If the texts cannot be read, or are too short.
    """
    missing = [side for side in SIDES if not (folder / side).is_dir()]
    if not missing:
        return
    texts = read_texts(pretraining)
    tokenizer = train_tokenizer(texts, vocab_size=pretraining.vocab_size)
    pieces = cut_pieces(texts, tokenizer, pretraining)
    for side in missing:
        with one_thread(), new_folder(folder / side) as temporary:
            model, loss = pretrain_model(getattr(pretraining, side), pieces, tokenizer, seed=pretraining.seed)
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            noted = {"num_parameters": model.num_parameters(), "num_tokens": pieces.numel(), "last_nats": loss}
            write_json(temporary / PRETRAINING_FILE, {**asdict(getattr(pretraining, side)), **noted})
        logger.info("pretrained the %s: %d parameters, %.2f nats per token", side, model.num_parameters(), loss)


def read_texts(pretraining: TextPretraining) -> list[str]:
    """Return every prompt, completion and text of the corpora once, in random order."""
    texts: dict[str, None] = {}
    for corpus in pretraining.corpora:
        source = DataSource.from_dict({key: value for key, value in corpus.items() if key != "label"})
        texts |= dict.fromkeys(_texts_of(load_examples(source)))
    found = list(texts)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(pretraining.seed))
    return [found[i] for i in order.tolist()]


def train_tokenizer(texts: Sequence[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which has a token for every byte, an EOS and a padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def cut_pieces(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, pretraining: TextPretraining) -> Tensor:
    """Return the texts, each with its EOS token, one after the other, as pieces ``[N, piece_length]``.

    Raises:
        DataError: If they do not fill one.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ids = torch.tensor([token for row in encoded for token in (*row, tokenizer.eos_token_id)])
    number = len(ids) // pretraining.piece_length
    if number == 0:
        raise DataError(f"got {len(ids)} tokens of text, expected at least piece_length={pretraining.piece_length}.")
    return ids[: number * pretraining.piece_length].view(number, -1)


def pretrain_model(
    shape: TextModel, pieces: Tensor, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> tuple[LlamaForCausalLM, float]:
    """Pretrain one model.

    Args:
        shape: Its shape, and how.
        pieces: Token ids ``[N, T]``; they are gone through in random order, epoch by epoch.
        tokenizer: Their tokenizer.
        seed: Seed of the weights and of the order.

    Returns:
        The model, and its mean loss over the last steps, in nats per token.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=shape.hidden_size,
                intermediate_size=shape.hidden_size * 8 // 3,
                num_hidden_layers=shape.num_layers,
                num_attention_heads=shape.hidden_size // 16,
                max_position_embeddings=MAX_POSITIONS,
                initializer_range=0.5 * shape.hidden_size**-0.5,  # with the usual 0.02 models so small learn slowly
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, shape.learning_rate, total_steps=max(2, shape.num_steps), pct_start=0.1
    )
    order, losses = torch.zeros(0, dtype=torch.long), []
    for _ in tqdm(range(shape.num_steps), desc="pretraining", mininterval=5, file=sys.stderr):
        while len(order) < shape.batch_size:
            order = torch.cat([order, torch.randperm(len(pieces), generator=generator)])
        ids, order = pieces[order[: shape.batch_size]], order[shape.batch_size :]
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    last = losses[-LAST_STEPS:]
    return model.eval(), sum(last) / len(last)


def _texts_of(examples: Dataset) -> list[str]:
    """Return the texts of examples: of a chat, the content of every message."""
    values = [
        value
        for name in ("prompt", "completion", "messages", "text")
        if name in examples.column_names
        for value in examples[name]
    ]
    return [text for value in values for text in ([value] if isinstance(value, str) else [m["content"] for m in value])]
