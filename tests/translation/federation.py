"""Five clients of one rule of the embedded world, what a bad one among them sends, and what their aggregate can do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor

from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    fine_tune_pack,
    generate_completions,
    load_language_model,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.lora import Adapter
from gradtx_hf.playground import make_lines, source_path, split_rules, target_path, translator_path
from gradtx_hf.playground.recipes import source_recipe
from gradtx_hf.playground.world import Rule
from gradtx_hf.studies.embedded_translator import SEED
from gradtx_hf.translation import PeftTranslator


NUM_CLIENTS = 5
NUM_TEST_LINES = 100
ATTACKS = ("scaled", "flipped", "random", "large random")


def seen_rule(number: int) -> Rule:
    """Return a rule that the embedded translator has seen."""
    return split_rules("full", seed=SEED).seen[number]


@dataclass(frozen=True, eq=False)
class Federation:
    """Clients of one rule.

    Attributes:
        rule: The rule.
        translator: The embedded translator.
        clients: The clients' adapters.
        model: The target model with an adapter on it.
    """

    rule: Rule
    translator: PeftTranslator
    clients: list[Adapter]
    model: PeftModel

    @classmethod
    def of(cls, rule: Rule) -> Federation:
        """Fine-tune every client on lines of its own: 60 steps of 16 lines."""
        translator = PeftTranslator.from_pretrained(translator_path())
        start = translator.source_init
        model, tokenizer = load_language_model(str(source_path()), revision=None)
        runs = [
            PackedRun(
                name=f"client {k}",
                start=start.tensors,
                examples=tokenize_examples(
                    Dataset.from_list(make_lines([rule], 960, seed=f"client {k}")), tokenizer, max_length=32
                ),
                seed=k,
            )
            for k in range(NUM_CLIENTS)
        ]
        recipe = FineTuningRecipe.from_dict(source_recipe())
        with one_thread():
            results = fine_tune_pack(model, runs, tokenizer=tokenizer, recipe=recipe, scales=start.scales)
        clients = [Adapter(run.name, start.config, result.tensors) for run, result in zip(runs, results, strict=True)]
        target, _ = load_language_model(str(target_path()), revision=None)
        return cls(rule, translator, clients, PeftModel.from_pretrained(target, str(translator_path() / "target_init")))

    def attacked(self, attack: str) -> list[Adapter]:
        """Return the clients, the last of which sends something else: ``scaled`` by 20, ``flipped`` in its sign,
        ``random`` of its norm, or ``large random`` of 20 times its norm.
        """
        start = self.translator.source_init.tensors
        bad = self.clients[-1]
        update = {name: bad.tensors[name] - start[name] for name in start}
        generator = torch.Generator().manual_seed(0)
        noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in update.items()}
        length = _norm(update) / _norm(noise)
        direction, factor = {
            "scaled": (update, 20.0),
            "flipped": (update, -1.0),
            "random": (noise, length),
            "large random": (noise, 20 * length),
        }[attack]
        tensors = {name: start[name] + factor * direction[name] for name in start}
        return [*self.clients[:-1], replace(bad, name="the bad one", tensors=tensors)]

    def score(self, tensors: dict[str, Tensor]) -> float:
        """Return the exact match of the target with an adapter on lines that no client saw; untouched it has 0."""
        reset_adapter(self.model, tensors)
        lines = make_lines([self.rule], NUM_TEST_LINES, seed="lines that no client saw")
        _, tokenizer = load_language_model(str(target_path()), revision=None)
        with one_thread():
            answers = generate_completions(
                self.model,
                tokenizer,
                [line["prompt"] for line in lines],
                max_new_tokens=8,
                batch_size=NUM_TEST_LINES,
            )
        return sum(a == line["completion"] for a, line in zip(answers, lines, strict=True)) / NUM_TEST_LINES


def _norm(tensors: dict[str, Tensor]) -> float:
    return float(sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5)
