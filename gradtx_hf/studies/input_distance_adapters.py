"""Adapters for the study of the input distance: such as a translator was trained on, unseen, foreign and changed ones.

Real runs are made with the recipe of a finished quickstart's store, on lines and with seeds of their own; the others
are changes of fresh seen ones. Source: ours.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Generator, Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.evaluation import Report
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PackedRun,
    adapter_state,
    add_adapter,
    fine_tune_pack,
    load_language_model,
    tokenize_examples,
)
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.playground import Rule, make_lines, split_rules
from gradtx_hf.playground.world import LETTERS, NUM_POSITIONS
from gradtx_hf.studies.pretrain_playground import pretrain
from gradtx_hf.studies.quickstart import CONFIG_FILE
from gradtx_hf.translation import LEAST_SHADOW_SETS, PeftTranslator
from gradtx_hf.updates.store import UpdateStore


Role = Literal["seen", "unseen", "foreign", "changed"]
Change = Callable[[Tensor, Generator], Tensor]
"""What becomes of one tensor's update, given a generator."""

REFERENCE = "seen"
"""The kind that all others are compared with: fresh runs of the rules that the translator was trained on."""
OTHER_MODEL = "gradtx-hf/playground-source of another seed"
OTHER_MODEL_SEED = 1
"""Of the weights and the text of another model; the embedded one has 0."""


@dataclass(frozen=True)
class Runs:
    """Real runs, by how they differ from the store's.

    Attributes:
        is_unseen: Whether their rules had no shadow set.
        learning_rate_factor: Of the recipe's learning rate.
        num_steps_factor: Of the recipe's steps and warm-up.
        has_own_start: Whether each begins from random factors of its own, as plain PEFT makes them.
        has_other_model: Whether the base is another model of the same shape.
        has_random_completions: Whether completions are random letters.
    """

    is_unseen: bool = False
    learning_rate_factor: float = 1.0
    num_steps_factor: float = 1.0
    has_own_start: bool = False
    has_other_model: bool = False
    has_random_completions: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of adapters.

    Attributes:
        label: What it is called.
        role: What it is to the translator. ``foreign``: not of its model, not from its start, or no result of a
            training; ``changed``: from its start, but of another recipe or task, or altered afterwards.
        made: How it is made; None: the quickstart's own clients.
    """

    label: str
    role: Role
    made: Runs | Change | None


def _permuted(update: Tensor, generator: Generator) -> Tensor:
    return update.flatten()[torch.randperm(update.numel(), generator=generator)].view_as(update)


def _noise(update: Tensor, generator: Generator) -> Tensor:
    drawn: Tensor = torch.randn(update.shape, generator=generator)
    scale: Tensor = update.norm() / drawn.norm()
    return drawn * scale


KINDS: dict[str, Kind] = {
    REFERENCE: Kind("Seen rules, fresh runs", "seen", Runs()),
    "seen_clients": Kind("Seen rules, the quickstart's clients", "seen", None),
    "unseen": Kind("Unseen rules, fresh runs", "unseen", Runs(is_unseen=True)),
    "unseen_clients": Kind("Unseen rules, the quickstart's clients", "unseen", None),
    "other_start": Kind("From another start", "foreign", Runs(has_own_start=True)),
    "other_model": Kind("Of another model, from source_init", "foreign", Runs(has_other_model=True)),
    "noise": Kind("Noise of the same norm", "foreign", _noise),
    "permuted": Kind("Update permuted within tensors", "foreign", _permuted),
    "learning_rate_3": Kind("Learning rate x 3", "changed", Runs(learning_rate_factor=3.0)),
    "steps_4": Kind("Steps x 4", "changed", Runs(num_steps_factor=4.0)),
    "steps_quarter": Kind("Steps / 4", "changed", Runs(num_steps_factor=0.25)),
    "random_completions": Kind("Random completions", "changed", Runs(has_random_completions=True)),
    "scaled_3": Kind("Update x 3", "changed", lambda update, _: 3 * update),
    "flipped": Kind("Update x -1", "changed", lambda update, _: -update),
    "zero": Kind("Update x 0", "changed", lambda update, _: 0 * update),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished quickstart, as far as the study needs it.

    Attributes:
        translator: Its translator, with an input distance.
        source: What its store's plan says of the source: model, adapter and recipe.
        pack: Runs that were fine-tuned together.
        seen: Rules that shadow sets were made of.
        unseen: All other rules.
        num_lines: Lines of a shadow set.
        clients: Its clients' source adapters, under ``seen_clients`` and ``unseen_clients``.
    """

    translator: PeftTranslator
    source: Mapping[str, Any]
    pack: int
    seen: tuple[Rule, ...]
    unseen: tuple[Rule, ...]
    num_lines: int
    clients: Mapping[str, list[Adapter]]


def open_quickstart(folder: Path) -> Subject:
    """Read a finished quickstart.

    Args:
        folder: The output folder of ``gradtx quickstart``.

    Raises:
        MissingFileError: If it holds no quickstart, or an unfinished one.
        ConfigurationError: If its translator has no input distance.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise MissingFileError(f"'{folder}' holds no quickstart. Give the output folder of gradtx quickstart.")
    if not (folder / "report.json").is_file():
        raise MissingFileError(
            f"the quickstart in '{folder}' is not finished. The same gradtx quickstart continues it."
        )
    settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    plan = UpdateStore.open(folder / "store").plan
    translator = PeftTranslator.from_pretrained(folder / "translator")
    if translator.input_distance is None:
        raise ConfigurationError(
            f"the translator in '{folder}' has no input distance, which needs {LEAST_SHADOW_SETS} shadow sets. Give a "
            "quickstart of more."
        )
    split = split_rules("full", seed=settings["seed"])
    labels = {corpus["label"] for corpus in plan["corpora"]}
    homes = sorted((folder / "evaluation" / "clients").iterdir())
    clients: dict[str, list[Adapter]] = {"seen_clients": [], "unseen_clients": []}
    for home, client in zip(homes, Report.load(folder).clients, strict=True):
        clients["seen_clients" if client.seen else "unseen_clients"].append(load_adapter(home / "source"))
    return Subject(
        translator=translator,
        source=plan["source"],
        pack=int(plan["pack"]["source"]),
        seen=tuple(rule for rule in split.seen if rule.name in labels),
        unseen=tuple(sorted([*split.development, *split.report])),
        num_lines=int(settings["samples_per_set"]),
        clients=clients,
    )


def make_adapters(
    subject: Subject, *, numbers: Mapping[Role, int], pretraining_divisor: int
) -> Iterator[tuple[str, list[Adapter]]]:
    """Make the adapters of every kind.

    Args:
        subject: The quickstart.
        numbers: By role, adapters of each kind that is made here.
        pretraining_divisor: Divides the steps in which another model is pretrained.

    Yields:
        A kind's name and its adapters.
    """
    model, tokenizer = load_language_model(subject.source["model"], revision=subject.source["revision"])
    fresh: list[Adapter] = []
    for name, kind in KINDS.items():
        number = numbers[kind.role]
        if kind.made is None:
            yield name, subject.clients[name]
        elif isinstance(kind.made, Runs):
            base = _other_model(pretraining_divisor) if kind.made.has_other_model else model
            made = _fine_tune(subject, name, kind.made, number, base, tokenizer)
            fresh = made if name == REFERENCE else fresh
            yield name, made
        else:
            yield (
                name,
                [_change(adapter, subject, kind.made, name, k) for k, adapter in enumerate(_spread(fresh, number))],
            )


def _fine_tune(
    subject: Subject, name: str, runs: Runs, number: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Adapter]:
    recipe = _recipe(subject, runs)
    start = subject.translator.source_init
    rules = _spread(subject.unseen if runs.is_unseen else subject.seen, number)
    planned = [
        PackedRun(
            name=f"run {k} of kind '{name}'",
            start=_own_start(subject, f"{name} {k}") if runs.has_own_start else start.tensors,
            examples=tokenize_examples(
                Dataset.from_list(_lines(subject, runs, rule, f"{name} {k}")), tokenizer, max_length=recipe.max_length
            ),
            seed=_seed(f"{name} {k}"),
        )
        for k, rule in enumerate(rules)
    ]
    config = copy.copy(start.config)
    if runs.has_other_model:
        config.base_model_name_or_path = OTHER_MODEL
    adapters = []
    with one_thread():
        for first in range(0, number, subject.pack):
            results = fine_tune_pack(
                model,
                planned[first : first + subject.pack],
                tokenizer=tokenizer,
                recipe=recipe,
                scales=start.scales,
                dropout=subject.source["dropout"],
            )
            adapters += [Adapter(f"{name}-{first + i}", config, result.tensors) for i, result in enumerate(results)]
    return adapters


def _recipe(subject: Subject, runs: Runs) -> FineTuningRecipe:
    recipe = FineTuningRecipe.from_dict(subject.source["recipe"])
    num_steps = max(1, round(recipe.num_steps * runs.num_steps_factor))
    return replace(
        recipe,
        learning_rate=recipe.learning_rate * runs.learning_rate_factor,
        num_steps=num_steps,
        warmup_steps=min(round(recipe.warmup_steps * runs.num_steps_factor), num_steps - 1),
    )


def _lines(subject: Subject, runs: Runs, rule: Rule, name: str) -> list[dict[str, str]]:
    """Return a run's data: lines of one rule which no shadow set and no client was made of."""
    rows = make_lines([rule], subject.num_lines, seed=f"input distance {name}")
    if not runs.has_random_completions:
        return rows
    generator = random.Random(f"random completions {name}")
    return [row | {"completion": "".join(generator.choices(LETTERS, k=NUM_POSITIONS))} for row in rows]


def _own_start(subject: Subject, name: str) -> dict[str, Tensor]:
    source = subject.source
    model, _ = load_language_model(source["model"], revision=source["revision"])
    adapted = add_adapter(
        model,
        rank=source["rank"],
        alpha=source["alpha"],
        target_modules=source["target_modules"],
        seed=_seed(f"start {name}"),
    )
    return adapter_state(adapted)


def _other_model(pretraining_divisor: int) -> PreTrainedModel:
    with one_thread(), torch.random.fork_rng():
        model, _ = pretrain("source", seed=OTHER_MODEL_SEED, num_steps_divisor=pretraining_divisor)
    return model


def _change(adapter: Adapter, subject: Subject, change: Change, name: str, number: int) -> Adapter:
    start = subject.translator.source_init.tensors
    generator = Generator().manual_seed(_seed(f"{name} {number}"))
    tensors = {key: start[key] + change(tensor - start[key], generator) for key, tensor in adapter.tensors.items()}
    return Adapter(f"{name}-{number}", adapter.config, tensors)


def _spread(values: Sequence[Any], number: int) -> list[Any]:
    """Return as many of the values, evenly spread over them; each several times where there are fewer."""
    return [values[i * len(values) // number] for i in range(number)]


def _seed(name: str) -> int:
    return random.Random(f"input distance {name}").getrandbits(32)
