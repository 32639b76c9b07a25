"""What study ``baselines`` makes of its clients' adapters: every method's, and their scores.

Methods that read adapters alone are made for all clients of a seed at once; those that fine-tune or mix models, client
by client. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from gradtx_hf.baselines import LowRankMap
from gradtx_hf.baselines.confidence import ConfidenceSettings, confidence_trainer
from gradtx_hf.baselines.cross_lora import base_weights, cross_lora
from gradtx_hf.baselines.proxy_tuning import ProxyTunedModel
from gradtx_hf.baselines.refinement import refine
from gradtx_hf.baselines.vissup import vissup_trainer
from gradtx_hf.baselines.vocabulary import require_same_vocabulary
from gradtx_hf.baselines.w2s import fine_tune_on_weak_labels
from gradtx_hf.baselines.weak_labels import weakly_labelled
from gradtx_hf.evaluation import ClientScores
from gradtx_hf.evaluation.controls import State, partners, target_states
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.evaluation.scoring import Scored, score, score_states
from gradtx_hf.finetuning import (
    AdapterSFTTrainer,
    FineTuningRecipe,
    adapter_state,
    load_language_model,
    load_samples,
    reset_adapter,
)
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.playground import source_path, target_path, translator_path
from gradtx_hf.studies.baseline_clients import (
    PUBLIC_FINETUNE,
    SOURCE_BEST,
    WEAK_MODEL,
    BaselineClient,
    BaselineSettings,
)
from gradtx_hf.studies.clients import SCORING, SHUFFLED_INPUT
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator
from gradtx_hf.updates import UpdateVector, align_adapter
from gradtx_hf.updates.store import Side, UpdateStore


CLIENT_FILE = "client.json"
"""A client's scores; its existence means that the client is done."""
WEAK_METHODS = ("w2s", "confidence", "vissup")
STARTS = {
    "distilled_same": (SOURCE_CLIENT, TARGET_UNTOUCHED),
    "distilled": (SOURCE_BEST, TARGET_UNTOUCHED),
    "refined_mean": (SOURCE_BEST, "shadow_mean"),
    "refined_translation": (SOURCE_BEST, TRANSLATED),
}
"""Method by distillation to the source adapter that teaches and the target adapter that it starts from."""
MADE_TOGETHER = (
    TARGET_UNTOUCHED,
    TRANSLATED,
    SHUFFLED_INPUT,
    "shadow_mean",
    "nearest_shadow",
    "ridge",
    "low_rank_map",
    "cross_lora",
)
MAX_NEW_TOKENS = SCORING.max_new_tokens


@dataclass(frozen=True)
class ClientJob:
    """A client to finish: its dear methods, and all its scores."""

    client: BaselineClient
    settings: BaselineSettings
    store: Path
    public_finetune: Path


def make_adapters(clients: Sequence[BaselineClient], settings: BaselineSettings, store_folder: Path) -> None:
    """Write for every client of a seed the adapters of all methods that read no data and train nothing."""
    if all((client.home / name).is_dir() for client in clients for name in MADE_TOGETHER):
        return
    translator, store = PeftTranslator.from_pretrained(str(translator_path())), UpdateStore.open(store_folder)
    inits: dict[Side, Adapter] = {"source": translator.source_init, "target": translator.target_init}
    aligned = [_aligned(load_adapter(client.home / SOURCE_CLIENT), inits["source"]) for client in clients]
    made = target_states(
        inits,
        store,
        aligned,
        translated=[translator.translate_states([state]) for state in aligned],
        shuffled=partners([client.rule.name for client in clients], [client.seen for client in clients]),
    )
    low_rank = LowRankMap.fit(store)
    weights = {
        side: base_weights(load_language_model(str(path))[0], list(inits[side].scales))
        for side, path in _model_paths().items()
    }
    for client, state, methods in zip(clients, aligned, made, strict=True):
        update = UpdateVector.between(state, inits["source"].tensors, store.source_layout)
        predicted = UpdateVector(low_rank.predict(update.tokens), store.target_layout)
        methods["low_rank_map"] = predicted.added_to(inits["target"].tensors)
        methods["cross_lora"] = cross_lora(
            load_adapter(client.home / SOURCE_BEST),
            inits["target"],
            source_weights=weights["source"],
            target_weights=weights["target"],
            basis_rank=settings.basis_rank,
        )
        for name in MADE_TOGETHER:
            _write(client.home / name, methods[name], inits["target"])


def finish_client(job: ClientJob) -> None:
    """Train a client's rivals, those that are not there, score all methods, and write ``client.json``."""
    client, settings = job.client, job.settings
    source, target, tokenizer = _models()
    curves: dict[str, dict[int, State]] = {}
    recipe = FineTuningRecipe.from_dict(settings.refinement_recipe)
    prompts = public_prompts(job.store, settings.num_public_prompts, seed=client.training_seed)
    for name, (teacher, start) in STARTS.items():
        reset_adapter(source, load_adapter(client.home / teacher).tensors)
        labelled = weakly_labelled(source, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS)
        curves[name] = refine(
            target,
            load_adapter(client.home / start).tensors,
            labelled,
            teacher=source,
            tokenizer=tokenizer,
            recipe=recipe,
            seed=client.training_seed,
            steps=settings.refinement_steps,
        )
        _write(client.home / name, curves[name][recipe.num_steps], _init("target"))
    _train_on(labelled, target, tokenizer, client=client, settings=settings, suffix="_public")
    reset_adapter(source, load_adapter(client.home / WEAK_MODEL).tensors)
    own = load_samples([client.lines(settings, "second")], seed=0)
    labelled = weakly_labelled(source, tokenizer, own["prompt"], max_new_tokens=MAX_NEW_TOKENS)
    _train_on(labelled, target, tokenizer, client=client, settings=settings, suffix="")
    scored, curve = _score(job, curves)
    write_json(
        client.home / CLIENT_FILE,
        {
            "scores": asdict(
                ClientScores(
                    client.rule.name,
                    client.seen,
                    {name: method.score for name, method in scored.items()},
                    seed=client.training_seed,
                    nats_per_token={name: method.nats_per_token for name, method in scored.items()},
                    study_seed=client.seed,
                    example_scores={name: method.example_scores for name, method in scored.items()},
                    test_set=f"seed {client.seed}, {client.rule.name}",
                )
            ),
            "curves": curve,
        },
    )


def public_prompts(store: Path, number: int, *, seed: int) -> list[str]:
    """Return public inputs, without what their rules make of them."""
    examples = pooled_public_examples(UpdateStore.open(store))
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))[:number]
    return list(examples.select(order.tolist())["prompt"])


def _train_on(
    labelled: Dataset,
    target: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    client: BaselineClient,
    settings: BaselineSettings,
    suffix: str,
) -> None:
    """Train W2S, Conf and VisSup on weak labels, those that are not there."""
    trainers: Mapping[str, Callable[..., AdapterSFTTrainer]] = {
        "w2s": AdapterSFTTrainer,
        "confidence": confidence_trainer(ConfidenceSettings(max_alpha=settings.max_alpha)),
        "vissup": vissup_trainer(settings.temperature),
    }
    init = _init("target")
    for name in WEAK_METHODS:
        folder = client.home / f"{name}{suffix}"
        if folder.is_dir():
            continue
        reset_adapter(target, init.tensors)
        fine_tune_on_weak_labels(
            target,
            labelled,
            tokenizer=tokenizer,
            recipe=FineTuningRecipe.from_dict(settings.weak_recipe),
            seed=client.training_seed,
            make_trainer=trainers[name],
        )
        _write(folder, adapter_state(target), init)


def _score(
    job: ClientJob, curves: Mapping[str, Mapping[int, State]]
) -> tuple[dict[str, Scored], dict[str, dict[int, float]]]:
    """Return what every method scores, and what the refined adapters score step by step."""
    client, settings = job.client, job.settings
    tests = load_samples([client.lines(settings, "test")], seed=0)
    inits = {side: str(_init_path(side)) for side in ("source", "target")}
    names = [*MADE_TOGETHER, *STARTS, *(f"{n}{s}" for n in WEAK_METHODS for s in ("", "_public")), CEILING]
    states = {name: load_adapter(client.home / name).tensors for name in names}
    states[PUBLIC_FINETUNE] = load_adapter(job.public_finetune).tensors
    scored = score_states(inits["target"], states, tests, settings=SCORING)
    own = {name: load_adapter(client.home / name).tensors for name in (SOURCE_CLIENT, SOURCE_BEST)}
    scored |= score_states(inits["source"], own, tests, settings=SCORING)
    for name, adapter in (("proxy_tuning", SOURCE_BEST), ("proxy_tuning_same", SOURCE_CLIENT)):
        proxy, tokenizer = proxy_tuned(client.home / adapter)
        scored[name] = score(proxy, tokenizer, tests, settings=SCORING)
    few = tests.select(range(min(settings.num_curve_lines, len(tests))))
    curve = {
        name: {
            step: scored_step.score
            for step, scored_step in score_states(
                inits["target"], {str(step): state for step, state in by_step.items()}, few, settings=SCORING
            ).items()
        }
        for name, by_step in curves.items()
    }
    return scored, {name: {int(step): value for step, value in by.items()} for name, by in curve.items()}


def proxy_tuned(adapter: Path) -> tuple[ProxyTunedModel, PreTrainedTokenizerBase]:
    """Return the three models that decode as one for a client, and their tokenizer.

    Args:
        adapter: The folder of the client's adapter.

    Raises:
        ConfigurationError: If their vocabularies differ.
    """
    target, tokenizer = load_language_model(str(target_path()))
    untouched, source_tokenizer = load_language_model(str(source_path()))
    require_same_vocabulary(source_tokenizer, tokenizer, what_for="proxy tuning")
    tuned = PeftModel.from_pretrained(load_language_model(str(source_path()))[0], str(adapter))
    return ProxyTunedModel(target, tuned, untouched).eval(), tokenizer


def _models() -> tuple[PeftModel, PeftModel, PreTrainedTokenizerBase]:
    """Return source and target with their initial adapters, to be trained, and the tokenizer of both."""
    found: list[Any] = []
    tokenizers = []
    for side, path in _model_paths().items():
        model, tokenizer = load_language_model(str(path), max_length=32)
        found.append(PeftModel.from_pretrained(model, str(_init_path(side)), is_trainable=True))
        tokenizers.append(tokenizer)
    require_same_vocabulary(*tokenizers, what_for="distillation")
    return found[0], found[1], tokenizers[1]


def _model_paths() -> dict[Side, Path]:
    return {"source": source_path(), "target": target_path()}


def _init_path(side: str) -> Path:
    return translator_path() / (SOURCE_INIT if side == "source" else TARGET_INIT)


def _init(side: str) -> Adapter:
    return load_adapter(_init_path(side))


def _aligned(adapter: Adapter, start: Adapter) -> State:
    return dict(align_adapter(adapter.tensors, start.tensors, scales=adapter.scales, start_scales=start.scales).state)


def _write(folder: Path, state: Mapping[str, torch.Tensor], init: Adapter) -> None:
    """Write one method's adapter, if it is not there."""
    if not folder.is_dir():
        with new_folder(folder) as temporary:
            save_adapter(temporary, config=init.config, tensors=state)
