"""What study ``baselines`` makes of its clients' adapters: every method's, and their scores.

Methods that read adapters alone are made for all clients of a seed at once; those that fine-tune or mix models, client
by client. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gradtx_hf.evaluation import ClientScores
from gradtx_hf.evaluation.controls import State, partners, target_states
from gradtx_hf.evaluation.method_adapters import (
    MethodTrainer,
    proxy_tuned,
    public_prompts,
    states_without_training,
    write_adapter,
)
from gradtx_hf.evaluation.method_settings import (
    CROSS_LORA,
    LOW_RANK_MAP,
    PROXIES,
    PUBLIC_WEAK_METHODS,
    SOURCE_BEST,
    STARTS,
    WEAK_METHODS,
    WEAK_MODEL,
)
from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.evaluation.scoring import Scored, Scorer, score
from gradtx_hf.finetuning import load_samples
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.output import write_json
from gradtx_hf.playground import translator_path
from gradtx_hf.studies.baseline_clients import PUBLIC_FINETUNE, BaselineClient, BaselineSettings
from gradtx_hf.studies.clients import SCORING, SHUFFLED_INPUT
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator
from gradtx_hf.updates import align_adapter
from gradtx_hf.updates.store import SIDES, Side, UpdateStore


CLIENT_FILE = "client.json"
"""A client's scores; its existence means that the client is done."""
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
    further = states_without_training(
        (LOW_RANK_MAP, CROSS_LORA),
        inits,
        store,
        source_states=aligned,
        adapters=[load_adapter(client.home / SOURCE_BEST) for client in clients],
        basis_rank=settings.basis_rank,
    )
    for client, methods, more in zip(clients, made, further, strict=True):
        for name in MADE_TOGETHER:
            write_adapter(client.home / name, {**methods, **more}[name], inits["target"])


def finish_client(job: ClientJob) -> None:
    """Train a client's rivals, those that are not there, score all methods, and write ``client.json``."""
    client, settings = job.client, job.settings
    trainer = MethodTrainer(
        {side: str(_init_path(side)) for side in SIDES},
        settings.methods,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=client.training_seed,
    )
    init = load_adapter(_init_path("target"))
    curves: dict[str, dict[int, State]] = {}
    public = pooled_public_examples(UpdateStore.open(job.store))
    prompts = public_prompts(public, settings.num_public_prompts, seed=client.training_seed)
    known = {teacher: trainer.labelled(client.home / teacher, prompts) for teacher in (SOURCE_CLIENT, SOURCE_BEST)}
    own = list(load_samples([client.lines(settings, "second")], seed=0)["prompt"])
    known[WEAK_MODEL] = trainer.labelled(client.home / WEAK_MODEL, own)
    for name, (teacher, start) in STARTS.items():
        curves[name] = trainer.distilled(
            load_adapter(client.home / start).tensors,
            known[teacher],
            teacher=client.home / teacher,
            steps=settings.refinement_steps,
        )
        write_adapter(client.home / name, curves[name][trainer.num_refinement_steps], init)
    for name in (*PUBLIC_WEAK_METHODS, *WEAK_METHODS):
        if not (client.home / name).is_dir():
            teacher = SOURCE_BEST if name in PUBLIC_WEAK_METHODS else WEAK_MODEL
            write_adapter(client.home / name, trainer.weak(name, known[teacher]), init)
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


def _score(
    job: ClientJob, curves: Mapping[str, Mapping[int, State]]
) -> tuple[dict[str, Scored], dict[str, dict[int, float]]]:
    """Return what every method scores, and what the refined adapters score step by step."""
    client, settings = job.client, job.settings
    tests = load_samples([client.lines(settings, "test")], seed=0)
    inits = {side: str(_init_path(side)) for side in SIDES}
    names = [*MADE_TOGETHER, *STARTS, *WEAK_METHODS, *PUBLIC_WEAK_METHODS, CEILING]
    states = {name: load_adapter(client.home / name).tensors for name in names}
    states[PUBLIC_FINETUNE] = load_adapter(job.public_finetune).tensors
    target = Scorer(inits["target"])
    scored = target.score(states, tests, settings=SCORING)
    own = {name: load_adapter(client.home / name).tensors for name in (SOURCE_CLIENT, SOURCE_BEST)}
    scored |= Scorer(inits["source"]).score(own, tests, settings=SCORING)
    for name, adapter in PROXIES.items():
        proxy, tokenizer = proxy_tuned(client.home / adapter, inits["target"])
        scored[name] = score(proxy, tokenizer, tests, settings=SCORING)
    few = tests.select(range(min(settings.num_curve_lines, len(tests))))
    curve: dict[str, dict[int, float]] = {}
    for name, by_step in curves.items():
        found = target.score({str(step): state for step, state in by_step.items()}, few, settings=SCORING)
        curve[name] = {int(step): scored_step.score for step, scored_step in found.items()}
    return scored, curve


def _init_path(side: str) -> Path:
    return translator_path() / (SOURCE_INIT if side == "source" else TARGET_INIT)


def _aligned(adapter: Adapter, start: Adapter) -> State:
    return dict(align_adapter(adapter.tensors, start.tensors, scales=adapter.scales, start_scales=start.scales).state)
