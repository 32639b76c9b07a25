"""Study ``full_weights``: the weights themselves are fine-tuned, and a translator turns their differences.

Shadow runs, clients, ceilings and the public control fine-tune the weights of the modules that LoRA adapts in the other
studies; a token is a layer's difference of weights. The rest is the same: layouts, stores, controls, the functional
objective. A translated update is written as a file to add to the target's weights, and as LoRA adapters of several
ranks, which stock PEFT loads. Source: the paper names any difference of parameters an update vector; the study is ours.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor

from gradtx_hf.baselines import NearestShadow, RidgeMap, ShadowMean
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.evaluation.controls import num_target_runs, partners
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.evaluation.saving import save_report
from gradtx_hf.evaluation.scoring import Scored, score
from gradtx_hf.evaluation.seconds import read_seconds, timed
from gradtx_hf.finetuning import load_samples
from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.hub.results import LORA_OF_RANK
from gradtx_hf.lora import save_adapter
from gradtx_hf.lora.full_weights import LowRankUpdate, added_weights, as_adapter, load_weights, save_weights
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.output import write_json
from gradtx_hf.studies.claim import claim_folder
from gradtx_hf.studies.clients import PUBLIC_FINETUNE, SCORING, SHADOW_MEAN, SHUFFLED_INPUT, read_scores
from gradtx_hf.studies.full_weights_runs import FullWeightSettings, SeedRun, SideModel
from gradtx_hf.studies.results import pooled
from gradtx_hf.studies.world import Place
from gradtx_hf.updates import decode_update, encode_update
from gradtx_hf.updates.store import UpdateStore


NAME = "full_weights"
TITLE = "Full-weight updates in the place of LoRA adapters"
SCORES_FILE = "scores.json"
QUESTION = "Can a translator turn differences of the weights themselves, and what is left of one at a LoRA's rank?"


def run_full_weights_study(
    output_dir: str | Path,
    *,
    num_seeds: int = 1,
    num_workers: int = 1,
    settings: FullWeightSettings | None = None,
    command: str = "",
) -> Report:
    """Fine-tune, train, translate and score, and write ``report.{json,md,png}``.

    Args:
        output_dir: Its folder; one that holds the same study is continued.
        num_seeds: Seeds 0 … num_seeds - 1 are run, each with another split of the rules.
        num_workers: Not used: one process, whose runs are packed.
        settings: All other numbers.
        command: The command line, for the report.

    Raises:
        ConfigurationError: If there is no seed.
        OutputExistsError: If the folder holds something else.
    """
    if num_seeds < 1:
        raise ConfigurationError(f"got seeds={num_seeds}, expected at least 1.")
    settings = settings or FullWeightSettings()
    folder = claim_folder(Path(output_dir).absolute(), {"study": NAME, "settings": asdict(settings)})
    clients, errors, target_runs = {}, [], 0
    with one_thread():
        for seed in range(num_seeds):
            run = SeedRun(settings, Place(folder, seed))
            with timed(folder, "curation"):
                store = run.curate()
            with timed(folder, "clients"):
                run.fine_tune(store)
            with timed(folder, "training"):
                model = run.train(store)
            with timed(folder, "scoring"):
                clients[seed], lost = _scores(run, store, model)
            errors.append(lost)
            target_runs = num_target_runs(store)
    config = {
        "study": {"name": NAME, "question": QUESTION, "settings": asdict(settings)},
        "seeds": num_seeds,
        "num_target_runs": target_runs,
        "lora": {f"{LORA_OF_RANK}{rank}": _share_lost(errors, rank) for rank in settings.ranks},
    }
    report = pooled(clients, config=config)
    report = Report(**{**vars(report), "seconds": read_seconds(folder), "command": command})
    save_report(report, folder)
    return report


def render_full_weights_plan(*, num_seeds: int) -> str:
    """Return what a run of the study would do and cost, in optimizer steps."""
    settings = FullWeightSettings()
    world, clients = settings.world, settings.clients
    num_clients = clients.num_seen + clients.num_unseen
    rows = [
        ["source runs of the store", str(world.num_shadow_sets), str(world.source_recipe["num_steps"])],
        ["target runs of the store", str(world.num_target_runs), str(world.target_recipe["num_steps"])],
        ["clients", str(num_clients), str(world.source_recipe["num_steps"])],
        ["ceilings", str(num_clients), str(clients.num_ceiling_steps)],
        ["public fine-tunes", "1", str(clients.num_public_steps)],
        ["translators", "1", str(settings.training["max_steps"])],
    ]
    sections = [
        f"{NAME}: {TITLE}",
        QUESTION,
        markdown_table(["what", "how many", "steps each"], rows),
        f"By {num_seeds} seed{'' if num_seeds == 1 else 's'}. Nothing was run or written.",
    ]
    return "\n\n".join(sections)


def _scores(
    run: SeedRun, store: UpdateStore, model: GradTransformerModel
) -> tuple[list[ClientScores], list[dict[int, float]]]:
    """Return what ``_score_all`` does, kept in ``scores.json``, whose existence means that a seed is done."""
    path = run.place.home / SCORES_FILE
    if not path.is_file():
        scored, errors = _score_all(run, store, model)
        write_json(path, {"clients": [asdict(client) for client in scored], "errors": errors})
    values = json.loads(path.read_text(encoding="utf-8"))
    errors = [{int(rank): error for rank, error in client.items()} for client in values["errors"]]
    return read_scores(values["clients"]), errors


def _score_all(
    run: SeedRun, store: UpdateStore, model: GradTransformerModel
) -> tuple[list[ClientScores], list[dict[int, float]]]:
    """Return every client's scores, and by rank the share of its translated update that a LoRA adapter loses."""
    source, target, clients = run.sides["source"], run.sides["target"], run.clients
    own = [load_weights(run.update_file("source", i)) for i in range(len(clients))]
    tokens = torch.stack([encode_update(state, store.source_layout) for state in own])
    translated = model.generate_updates(tokens)
    shuffled = partners([client.task for client in clients], [client.seen for client in clients])
    controls: dict[str, ShadowMean | NearestShadow | RidgeMap] = {
        SHADOW_MEAN: ShadowMean.fit(store),
        "nearest_shadow": NearestShadow.fit(store),
        "ridge": RidgeMap.fit(store),
    }
    scored, errors = [], []
    for i, client in enumerate(clients):
        methods = {TRANSLATED: translated[i]}
        methods |= {name: control.predict(tokens[i]) for name, control in controls.items()}
        partner = shuffled[i]
        if partner is not None:
            methods[SHUFFLED_INPUT] = translated[partner]
        states = {name: decode_update(update, store.target_layout) for name, update in methods.items()}
        states |= {
            TARGET_UNTOUCHED: {},
            PUBLIC_FINETUNE: load_weights(run.public_file),
            CEILING: load_weights(run.update_file("ceiling", i)),
        }
        test = load_samples(client.test, seed=client.seed)
        found = {SOURCE_CLIENT: _score(source, own[i], test)}
        found |= {name: _score(target, state, test) for name, state in states.items()}
        adapters = {rank: as_adapter(states[TRANSLATED], target.model, rank=rank) for rank in run.settings.ranks}
        found |= {f"{LORA_OF_RANK}{rank}": _score_adapter(target, adapter, test) for rank, adapter in adapters.items()}
        errors.append({rank: adapter.error for rank, adapter in adapters.items()})
        file = run.update_file(TRANSLATED, i)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_weights(file, states[TRANSLATED])
        scored.append(
            ClientScores(
                client.task,
                client.seen,
                {name: method.score for name, method in found.items()},
                seed=client.seed,
                nats_per_token={name: method.nats_per_token for name, method in found.items()},
            )
        )
    return scored, errors


def _score(side: SideModel, update: Mapping[str, Tensor], test: Dataset) -> Scored:
    with added_weights(side.model, update) as model:
        return score(model, side.tokenizer, test, settings=SCORING)


def _score_adapter(side: SideModel, adapter: LowRankUpdate, test: Dataset) -> Scored:
    """Score an adapter as whoever gets it would use it: written to a folder, loaded by stock PEFT."""
    with tempfile.TemporaryDirectory(prefix="gradtx-") as folder:
        adapter.config.base_model_name_or_path = side.name
        save_adapter(folder, config=adapter.config, tensors=adapter.tensors)
        model = PeftModel.from_pretrained(side.model, folder)
        try:
            return score(model, side.tokenizer, test, settings=SCORING)
        finally:
            model.unload()


def _share_lost(errors: Sequence[Sequence[Mapping[int, float]]], rank: int) -> dict[str, Any]:
    """Return a rank, and the mean over clients of ‖s·B·A - ΔW‖ / ‖ΔW‖ at that rank."""
    return {"rank": rank, "error": round(fmean(client[rank] for clients in errors for client in clients), 6)}
