"""Rebuild the playground's two language models and their tokenizer from nothing.

    python -m gradtx_hf.studies.pretrain_playground --output-dir gradtx_hf/playground/assets

Two stages, each AdamW with a one-cycle schedule, loss on the output letters alone. First both tags are hidden
together in a quarter of the lines, until the model knows the rules by their tags; then each tag is hidden
independently, which is what lets LoRA pick a rule later. About five minutes on one core. Source: ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from gradtx_hf.playground.world import (
    HIDDEN,
    LETTERS,
    NUM_POSITIONS,
    REARRANGEMENT_TAGS,
    REARRANGEMENTS,
    SHIFT_TAGS,
)


SPECIAL_TOKENS = ["<pad>", "<eos>", "<unk>"]
HIDDEN_SHARE = 0.25
LINE_TOKENS = 2 + NUM_POSITIONS + 1 + NUM_POSITIONS + 1
"""Tokens of a line where each letter is one."""
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
Architecture = Literal["llama", "qwen2", "gpt2"]
ARCHITECTURES: dict[Architecture, dict[str, Any]] = {
    "llama": ROPE,
    "qwen2": {**ROPE, "num_key_value_heads": 2},
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
}
"""Model types of transformers, and the values of their configurations that are not those of a ``Recipe``."""
MLP_WIDTH: dict[Architecture, str] = {"llama": "intermediate_size", "qwen2": "intermediate_size", "gpt2": "n_inner"}
"""What a configuration calls the width of the MLP."""


@dataclass(frozen=True)
class Stage:
    """One stage of pretraining: optimizer steps, lines per step, peak learning rate, how tags are hidden."""

    num_steps: int
    batch_size: int
    learning_rate: float
    hide_together: bool


@dataclass(frozen=True)
class Recipe:
    """The shape of a playground model and how it is pretrained.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_layers: Layers, each of four heads.
        initializer_range: Standard deviation of the first weights.
        stages: The stages of its pretraining.
        architecture: One of ``ARCHITECTURES``.
        letters_per_token: Letters that its tokenizer reads and writes at a time; divides a word's six.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    initializer_range: float
    stages: tuple[Stage, ...]
    architecture: Architecture = "llama"
    letters_per_token: int = 1


# Weights start near 1/sqrt(hidden_size): with the usual 0.02 models this small do not learn the rules.
RECIPES = {
    "source": Recipe(
        hidden_size=40,
        intermediate_size=112,
        num_layers=3,
        initializer_range=0.12,
        # The third stage is for what an adapter tells: with it the shift of a rule that no shadow set had can be read
        # from the source's update in nine cases of ten, without it in six.
        stages=(
            Stage(1500, 256, 3e-3, hide_together=True),
            Stage(500, 256, 2e-3, hide_together=False),
            Stage(1000, 256, 2e-3, hide_together=False),
        ),
    ),
    "target": Recipe(
        hidden_size=96,
        intermediate_size=256,
        num_layers=4,
        initializer_range=0.08,
        stages=(Stage(1500, 128, 3e-3, hide_together=True), Stage(500, 128, 1.5e-3, hide_together=False)),
    ),
}


def build_tokenizer(letters_per_token: int = 1) -> PreTrainedTokenizerFast:
    """Build a tokenizer of the world: by letter 41 tokens and 16 a line, by pairs of letters 173 and 10.

    Args:
        letters_per_token: Letters of a word that are one token; tags and signs are tokens of their own.
    """
    characters = "".join(REARRANGEMENT_TAGS.values()) + SHIFT_TAGS + HIDDEN + "="
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *_pieces(letters_per_token), *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pattern = Regex(f"[{LETTERS}]{{{letters_per_token}}}|.")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build one untrained playground model."""
    config = AutoConfig.for_model(
        recipe.architecture,
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=recipe.initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{MLP_WIDTH[recipe.architecture]: recipe.intermediate_size},
        **ARCHITECTURES[recipe.architecture],
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    if recipe.letters_per_token > 1:
        _spell_pieces(model, recipe, tokenizer)
    return model


@torch.no_grad()
def _spell_pieces(model: PreTrainedModel, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let the vectors of a token of several letters begin as the sum of a vector for each letter at its place."""
    vocabulary = tokenizer.get_vocab()
    ids = torch.tensor([vocabulary[piece] for piece in _pieces(recipe.letters_per_token)])
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        summed = torch.zeros(1, recipe.hidden_size)
        for _ in range(recipe.letters_per_token):
            letters = torch.randn(len(LETTERS), recipe.hidden_size) * recipe.initializer_range
            summed = (summed[:, None] + letters).flatten(0, 1)  # the last letter changes fastest
        module.get_parameter("weight")[ids] = summed


class LineSampler:
    """Draws batches of tokenized lines of all 144 rules, far faster than tokenizing text.

    Args:
        tokenizer: The tokenizer, from ``build_tokenizer``.
        generator: Where lines are drawn from.
        letters_per_token: Its letters per token.

    Attributes:
        num_outputs: Tokens of a line that are output or end; they are its last.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, *, generator: torch.Generator, letters_per_token: int = 1
    ) -> None:
        vocabulary = tokenizer.get_vocab()

        def ids(tokens: Iterable[str]) -> Tensor:
            return torch.tensor([vocabulary[token] for token in tokens])

        self._orders = torch.tensor(list(REARRANGEMENTS.values()))
        self._rearrangement_tags = ids(REARRANGEMENT_TAGS.values())
        self._shift_tags = ids(SHIFT_TAGS)
        self._pieces = ids(_pieces(letters_per_token))
        self._places = len(LETTERS) ** torch.arange(letters_per_token).flip(0)
        self.num_outputs = NUM_POSITIONS // letters_per_token + 1
        self._hidden, self._equals, self._eos = (vocabulary[token] for token in (HIDDEN, "=", "<eos>"))
        self._generator = generator

    def batch(self, size: int, *, hidden_share: float, hide_together: bool) -> Tensor:
        """Draw lines as token ids ``[size, tokens of a line]``."""
        generator = self._generator
        orders = torch.randint(len(self._orders), (size,), generator=generator)
        shifts = torch.randint(len(self._shift_tags), (size,), generator=generator)
        inputs = torch.randint(len(LETTERS), (size, NUM_POSITIONS), generator=generator)
        outputs = (inputs.gather(1, self._orders[orders]) + shifts[:, None]) % len(LETTERS)
        tags = torch.stack([self._rearrangement_tags[orders], self._shift_tags[shifts]], dim=1)
        hidden = torch.rand((size, 1 if hide_together else 2), generator=generator) < hidden_share
        tags = torch.where(hidden, self._hidden, tags)
        column = torch.ones((size, 1), dtype=torch.long)
        return torch.cat(
            [tags, self._written(inputs), column * self._equals, self._written(outputs), column * self._eos],
            dim=1,
        )

    def _written(self, letters: Tensor) -> Tensor:
        """Return the tokens of words, which are given by the letters' places in the alphabet."""
        pieces = letters.unflatten(1, (-1, len(self._places)))  # [size, tokens, letters of a token]
        return self._pieces[(pieces * self._places).sum(dim=2)]


def pretrain(
    name: str, *, seed: int, num_steps_divisor: int = 1, recipes: Mapping[str, Recipe] = RECIPES
) -> tuple[PreTrainedModel, float]:
    """Pretrain one playground model.

    Args:
        name: Which of the recipes.
        seed: Seed of the initial weights and of the text.
        num_steps_divisor: Divides the steps of each stage; for a dry run.
        recipes: Recipes by name; by default those of the embedded models.

    Returns:
        The model, and its exact match on lines with known tags, in [0, 1].
    """
    recipe = recipes[name]
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(recipe.letters_per_token)
    model = build_model(recipe, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    sampler = LineSampler(tokenizer, generator=generator, letters_per_token=recipe.letters_per_token)
    for stage in recipe.stages:
        for loss in _train_stage(model, sampler, stage, num_steps=stage.num_steps // num_steps_divisor):
            last_loss = loss
        tqdm.write(f"{name}: {stage}: last loss {last_loss:.3f}", file=sys.stderr)
    return model.eval(), _known_tag_exact_match(model, sampler)


def _train_stage(model: PreTrainedModel, sampler: LineSampler, stage: Stage, *, num_steps: int) -> Iterator[float]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.learning_rate, total_steps=num_steps, pct_start=0.1)
    for _ in tqdm(range(num_steps), mininterval=5):
        ids = sampler.batch(stage.batch_size, hidden_share=HIDDEN_SHARE, hide_together=stage.hide_together)
        logits = model(input_ids=ids[:, :-1]).logits[:, -sampler.num_outputs :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -sampler.num_outputs :].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item()


@torch.no_grad()
def _known_tag_exact_match(model: PreTrainedModel, sampler: LineSampler) -> float:
    ids = sampler.batch(2000, hidden_share=0.0, hide_together=True)
    predicted = model(input_ids=ids[:, :-1]).logits[:, -sampler.num_outputs :].argmax(-1)
    return float((predicted == ids[:, -sampler.num_outputs :]).all(1).float().mean())


def _pieces(letters_per_token: int) -> list[str]:
    """Return the tokens of letters, in alphabetical order."""
    return ["".join(letters) for letters in itertools.product(LETTERS, repeat=letters_per_token)]


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(RECIPES), nargs="*", default=sorted(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only:
        model, exact_match = pretrain(name, seed=arguments.seed)
        folder = arguments.output_dir / name
        model.save_pretrained(folder)
        build_tokenizer(RECIPES[name].letters_per_token).save_pretrained(folder)
        print(json.dumps({"model": name, "known_tag_exact_match": exact_match, "folder": str(folder)}))


if __name__ == "__main__":
    main()
