"""Adapters of further methods: made of a client's adapter alone, or trained on what the small model writes.

Source: ours; the methods are those of ``gradtx_hf.baselines``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.baselines import LowRankMap
from gradtx_hf.baselines.confidence import ConfidenceSettings, confidence_trainer
from gradtx_hf.baselines.cross_lora import base_weights, cross_lora
from gradtx_hf.baselines.proxy_tuning import ProxyTunedModel
from gradtx_hf.baselines.refinement import refine
from gradtx_hf.baselines.vissup import vissup_trainer
from gradtx_hf.baselines.vocabulary import require_same_vocabulary
from gradtx_hf.baselines.w2s import fine_tune_on_weak_labels
from gradtx_hf.baselines.weak_labels import weakly_labelled
from gradtx_hf.evaluation.controls import State
from gradtx_hf.evaluation.method_settings import CROSS_LORA, LOW_RANK_MAP, PUBLIC, MethodSettings
from gradtx_hf.finetuning import (
    AdapterSFTTrainer,
    FineTuningRecipe,
    adapter_state,
    load_language_model,
    reset_adapter,
)
from gradtx_hf.finetuning.encoding import Prompt
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.output import new_folder
from gradtx_hf.updates import UpdateVector
from gradtx_hf.updates.store import Side, UpdateStore


Folder = str | Path


def states_without_training(
    methods: Sequence[str],
    inits: Mapping[Side, Adapter],
    store: UpdateStore,
    *,
    source_states: Sequence[Mapping[str, torch.Tensor]],
    adapters: Sequence[Adapter],
    basis_rank: int | None,
) -> list[dict[str, State]]:
    """Return what ``low_rank_map`` and ``cross_lora``, those that are asked for, make of each client's adapter.

    Args:
        methods: The methods; others are left out.
        inits: The initial adapters of both sides.
        store: The store that the map is fitted to.
        source_states: The clients' factors, aligned to the initial source adapter, which the map reads.
        adapters: The adapters that Cross-LoRA carries over.
        basis_rank: Of Cross-LoRA's bases.

    Raises:
        StoreError: If the store has too few pairs for the map.
        LayoutError: If Cross-LoRA finds no partner for a module.
    """
    states: list[dict[str, State]] = [{} for _ in source_states]
    if LOW_RANK_MAP in methods:
        fitted = LowRankMap.fit(store)
        for found, state in zip(states, source_states, strict=True):
            update = UpdateVector.between(state, inits["source"].tensors, store.source_layout)
            predicted = UpdateVector(fitted.predict(update.tokens), store.target_layout)
            found[LOW_RANK_MAP] = predicted.added_to(inits["target"].tensors)
    if CROSS_LORA in methods:
        weights = {side: base_weights(_base_model(init), list(init.scales)) for side, init in inits.items()}
        for found, adapter in zip(states, adapters, strict=True):
            found[CROSS_LORA] = cross_lora(
                adapter,
                inits["target"],
                source_weights=weights["source"],
                target_weights=weights["target"],
                basis_rank=basis_rank,
            )
    return states


def public_prompts(examples: Dataset, number: int, *, seed: int) -> list[Prompt]:
    """Return some of the pooled public inputs, without what belongs to them; all where there are fewer."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))[:number]
    return list(examples.select(order.tolist())["prompt"])


def proxy_tuned(adapter: Folder, target_init: Folder) -> tuple[ProxyTunedModel, PreTrainedTokenizerBase]:
    """Return the three models that decode as one for a client, and their tokenizer.

    Args:
        adapter: The folder of the client's adapter.
        target_init: The folder of an adapter of the target, which names the model.

    Raises:
        ConfigurationError: If their vocabularies differ.
    """
    client, init = load_adapter(adapter), load_adapter(target_init)
    target, tokenizer = load_language_model(init.base_model, revision=init.config.revision)
    untouched, own = load_language_model(client.base_model, revision=client.config.revision)
    require_same_vocabulary(own, tokenizer, what_for="proxy tuning")
    tuned = PeftModel.from_pretrained(_base_model(client), str(adapter))
    return ProxyTunedModel(target, tuned, untouched).eval(), tokenizer


def write_adapter(folder: Path, state: Mapping[str, torch.Tensor], init: Adapter) -> None:
    """Write one method's adapter, with an initial adapter's configuration, if it is not there."""
    if not folder.is_dir():
        with new_folder(folder) as temporary:
            save_adapter(temporary, config=init.config, tensors=state)


class MethodTrainer:
    """Trains the target's adapter on what the source writes, for one client after the other.

    Args:
        inits: Folders of the initial adapters of both sides.
        settings: How methods are trained.
        default: The recipe where they name none.
        max_new_tokens: Most tokens that the source writes.
        max_prompt_tokens: Most tokens of a prompt that it reads; None: all.
        batch_size: Prompts at once.
        seed: Seed of the order of the data and of dropout.
    """

    def __init__(
        self,
        inits: Mapping[Side, Folder],
        settings: MethodSettings,
        *,
        default: FineTuningRecipe | None = None,
        max_new_tokens: int,
        max_prompt_tokens: int | None = None,
        batch_size: int = 64,
        seed: int,
    ) -> None:
        fallback = default or FineTuningRecipe.from_dict(settings.weak_recipe or {})
        self._settings, self._seed = settings, seed
        self._weak, self._refinement = (
            settings.recipe(name, fallback) for name in ("weak_recipe", "refinement_recipe")
        )
        self._writing: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "max_prompt_tokens": max_prompt_tokens,
            "batch_size": batch_size,
        }
        longest = max(self._weak.max_length, self._refinement.max_length)
        self._source, self._source_tokenizer = _trainable(inits["source"], longest)
        self._target, self._target_tokenizer = _trainable(inits["target"], longest)
        self._init = load_adapter(inits["target"])

    @property
    def num_refinement_steps(self) -> int:
        """Steps of a distillation."""
        return self._refinement.num_steps

    def labelled(self, adapter: Folder, prompts: Sequence[Prompt]) -> Dataset:
        """Return prompts with what the source writes with an adapter."""
        reset_adapter(self._source, load_adapter(adapter).tensors)
        return weakly_labelled(self._source, self._source_tokenizer, prompts, **self._writing)

    def distilled(
        self, start: Mapping[str, torch.Tensor], labelled: Dataset, *, teacher: Folder, steps: Sequence[int]
    ) -> dict[int, State]:
        """Distil the source with an adapter into the target; see ``refine``.

        Raises:
            ConfigurationError: If the vocabularies differ, or the loss did not stay finite.
        """
        require_same_vocabulary(self._source_tokenizer, self._target_tokenizer, what_for="distillation")
        reset_adapter(self._source, load_adapter(teacher).tensors)
        return refine(
            self._target,
            start,
            labelled,
            teacher=self._source,
            tokenizer=self._target_tokenizer,
            recipe=self._refinement,
            seed=self._seed,
            steps=steps,
        )

    def weak(self, method: str, labelled: Dataset) -> State:
        """Train the target on weak labels.

        Args:
            method: One of ``WEAK_METHODS`` or ``PUBLIC_WEAK_METHODS``.
            labelled: From ``labelled``.

        Raises:
            ConfigurationError: If the loss did not stay finite.
            DataError: If a row has no token to learn from.
        """
        trainers: Mapping[str, Callable[..., AdapterSFTTrainer]] = {
            "w2s": AdapterSFTTrainer,
            "confidence": confidence_trainer(ConfidenceSettings(max_alpha=self._settings.max_alpha)),
            "vissup": vissup_trainer(self._settings.temperature),
        }
        reset_adapter(self._target, self._init.tensors)
        fine_tune_on_weak_labels(
            self._target,
            labelled,
            tokenizer=self._target_tokenizer,
            recipe=self._weak,
            seed=self._seed,
            make_trainer=trainers[method.removesuffix(PUBLIC)],
        )
        return adapter_state(self._target)


def _trainable(init: Folder, max_length: int) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    adapter = load_adapter(init)
    model, tokenizer = load_language_model(adapter.base_model, revision=adapter.config.revision, max_length=max_length)
    return PeftModel.from_pretrained(model, str(init), is_trainable=True), tokenizer


def _base_model(adapter: Adapter) -> PreTrainedModel:
    return load_language_model(adapter.base_model, revision=adapter.config.revision)[0]
