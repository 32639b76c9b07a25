"""``evaluate``: fine-tune the clients, their ceilings and the public control, translate, score all, report.

Adapters are kept in the output folder, so that an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from gradtx_hf.client import fine_tune_client
from gradtx_hf.curation import pooled_public_examples
from gradtx_hf.errors import LayoutError, OutputExistsError, StoreError
from gradtx_hf.evaluation.arguments import HIGHER_IS_BETTER, ClientData, EvaluationArguments
from gradtx_hf.evaluation.controls import State, target_states
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.saving import save_report
from gradtx_hf.evaluation.scoring import ScoringSettings, check_columns, require_model, score_states
from gradtx_hf.evaluation.summary import ClientScores
from gradtx_hf.finetuning import FineTuningRecipe, Sample, load_samples
from gradtx_hf.finetuning.pool import run_jobs
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import require_new_folder, write_json
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator
from gradtx_hf.updates.layout import describe_difference
from gradtx_hf.updates.store import SIDES, UpdateStore


logger = logging.getLogger(__name__)

CONFIG_FILE = "evaluation.json"
TEST_SEED = 0
"""Held-out samples are drawn alike for every client of a task."""


@dataclass(frozen=True)
class FineTuningJob:
    """One adapter to fine-tune: where it starts, on what, how, and where it goes."""

    init: str
    samples: tuple[Sample, ...] | None
    store: str
    recipe: FineTuningRecipe
    seed: int
    output_dir: str


@dataclass(frozen=True)
class ScoringJob:
    """One model by its initial adapter, its adapters by method, and the data to score them on."""

    init: str
    states: dict[str, State]
    samples: tuple[Sample, ...]
    settings: ScoringSettings


def evaluate(arguments: EvaluationArguments, *, command: str = "") -> Report:
    """Score a translator's adapters beside every control and write report.json, report.md and report.png.

    Args:
        arguments: Whom to evaluate and how.
        command: The command line that makes this report, to be printed in it.

    Raises:
        GradTxError: If the translator, the store or the data cannot be used, or the folder holds something else.
    """
    translator = PeftTranslator.from_pretrained(arguments.translator)
    store = UpdateStore.open(arguments.store)
    clients = arguments.client_data()
    _check_inputs(arguments, translator, store)
    folder = _claim(arguments)
    seconds: dict[str, float] = {}
    with _timed(seconds, "fine_tuning"):
        inits = _write_inits(translator, folder)
        jobs = _fine_tuning_jobs(arguments, store, inits=inits, folder=folder)
        missing = [job for job in jobs if not Path(job.output_dir).is_dir()]
        for _ in run_jobs(perform_fine_tuning, missing, num_workers=arguments.num_workers, description="fine-tuning"):
            pass
    with _timed(seconds, "translation_and_controls"):
        aligned = [
            translator.read(
                load_adapter(_client_folder(folder, i, client) / "source"),
                allow_other_start=arguments.allow_other_start,
                allow_other_base=True,
            ).alignment.state
            for i, client in enumerate(clients)
        ]
        states = target_states(translator, store, aligned, tasks=[client.task for client in clients])
        public = load_adapter(folder / "public_finetune").tensors
        for i, client in enumerate(clients):
            states[i]["public_finetune"] = public
            states[i]["ceiling"] = load_adapter(_client_folder(folder, i, client) / "ceiling").tensors
            _write_translated(translator, folder, i, client)
    with _timed(seconds, "scoring"):
        scored = _score(arguments, inits, clients=clients, states=states, source_states=aligned)
    report = Report.from_clients(
        scored,
        metric=arguments.metric,
        higher_is_better=HIGHER_IS_BETTER[arguments.metric],
        seconds=seconds,
        config=asdict(arguments),
        command=command,
    )
    save_report(report, folder)
    logger.info("wrote %s", folder / "report.md")
    return report


def _check_inputs(arguments: EvaluationArguments, translator: PeftTranslator, store: UpdateStore) -> None:
    """Check all that is read later on, before anything is written."""
    if not {*SIDES, "corpora", "shadow_sets"} <= store.plan.keys():
        raise StoreError(f"update store '{store.folder}' was not made by gradtx curate. Give one that was.")
    for side in SIDES:
        init = translator.source_init if side == "source" else translator.target_init
        start = load_adapter(store.folder / f"{side}_init")
        if start.layout.shapes != init.layout.shapes:
            raise LayoutError(
                f"store '{store.folder}' does not fit translator '{translator.name}' on the {side} side: "
                f"{describe_difference(start.layout, init.layout)}"
            )
        if not all(torch.equal(start.tensors[name], init.tensors[name]) for name in init.tensors):
            raise StoreError(
                f"store '{store.folder}' has another {side}_init than translator '{translator.name}', so that its "
                "controls would start elsewhere. Give the store that the translator was trained on."
            )
        require_model(init.base_model, revision=init.config.revision)
    for client in arguments.client_data():
        load_samples(client.train, seed=client.seed)
        check_columns(load_samples(client.test, seed=TEST_SEED), arguments.metric, task=client.task)
    if not (Path(arguments.output_dir) / CONFIG_FILE).is_file():
        pooled_public_examples(store)


def perform_fine_tuning(job: FineTuningJob) -> None:
    """Fine-tune one adapter; a client's, a ceiling, or, without samples, the public control on the pooled data."""
    examples = (
        pooled_public_examples(UpdateStore.open(job.store))
        if job.samples is None
        else load_samples(job.samples, seed=job.seed)
    )
    fine_tune_client(
        job.init,
        examples,
        recipe=job.recipe,
        output_dir=job.output_dir,
        seed=job.seed,
    )


def perform_scoring(job: ScoringJob) -> dict[str, float]:
    """Score every method of one job."""
    examples = load_samples(job.samples, seed=TEST_SEED)
    return score_states(job.init, job.states, examples, settings=job.settings)


def client_folder_name(index: int, client: ClientData) -> str:
    """Return the name of a client's folder in the output: its index and task, in safe characters."""
    safe = "".join(character if character.isalnum() or character in "-_+" else "-" for character in client.task)
    return f"{index:03d}-{safe}"


def _client_folder(folder: Path, index: int, client: ClientData) -> Path:
    return folder / "clients" / client_folder_name(index, client)


def _claim(arguments: EvaluationArguments) -> Path:
    """Make the output folder ours, or go on in it if it holds this very evaluation."""
    folder = Path(arguments.output_dir)
    values = json.loads(json.dumps(asdict(arguments) | {"num_workers": None}))
    path = folder / CONFIG_FILE
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != values:
            raise OutputExistsError(f"'{folder}' holds another evaluation. Name a new folder, or remove it first.")
        return folder
    require_new_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return folder


def _write_inits(translator: PeftTranslator, folder: Path) -> dict[str, str]:
    """Keep the translator's initial adapters beside the results; fine-tuning jobs start from them."""
    home = folder / "translator"
    if not home.is_dir():
        translator.save_pretrained(home)
    return {"source": str(home / SOURCE_INIT), "target": str(home / TARGET_INIT)}


def _fine_tuning_jobs(
    arguments: EvaluationArguments,
    store: UpdateStore,
    *,
    inits: dict[str, str],
    folder: Path,
) -> list[FineTuningJob]:
    recipes = {
        side: FineTuningRecipe.from_dict(getattr(arguments, f"{side}_recipe") or store.plan[side]["recipe"])
        for side in ("source", "target")
    }
    public_recipe = (
        FineTuningRecipe.from_dict(arguments.public_recipe) if arguments.public_recipe else recipes["target"]
    )

    def job(
        side: str, samples: tuple[Sample, ...] | None, recipe: FineTuningRecipe, seed: int, to: Path
    ) -> FineTuningJob:
        return FineTuningJob(inits[side], samples, arguments.store, recipe, seed, str(to))

    jobs = [job("target", None, public_recipe, 0, folder / "public_finetune")]
    for i, client in enumerate(arguments.client_data()):
        home = _client_folder(folder, i, client)
        jobs.append(job("target", client.train, recipes["target"], client.seed, home / "ceiling"))
        jobs.append(job("source", client.train, recipes["source"], client.seed, home / "source"))
    return jobs


def _write_translated(translator: PeftTranslator, folder: Path, index: int, client: ClientData) -> None:
    home = _client_folder(folder, index, client)
    if not (home / "translated").is_dir():
        adapter = load_adapter(home / "source", name=f"{client.task}, seed {client.seed}")
        translated = translator.translate(adapter, allow_other_start=True, allow_other_base=True)
        translated.save_pretrained(home / "translated")


def _score(
    arguments: EvaluationArguments,
    inits: dict[str, str],
    *,
    clients: Sequence[ClientData],
    states: Sequence[dict[str, State]],
    source_states: Sequence[State],
) -> list[ClientScores]:
    settings = ScoringSettings(
        metric=arguments.metric,
        max_new_tokens=arguments.max_new_tokens,
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
    )
    jobs = []
    for client, methods, source_state in zip(clients, states, source_states, strict=True):
        jobs.append(ScoringJob(inits["target"], methods, client.test, settings))
        jobs.append(ScoringJob(inits["source"], {"source_client": source_state}, client.test, settings))
    scores: list[dict[str, float]] = [{} for _ in clients]
    for index, found in run_jobs(perform_scoring, jobs, num_workers=arguments.num_workers, description="scoring"):
        scores[index // 2] |= found
    return [
        ClientScores(client.task, client.seen, found, seed=client.seed)
        for client, found in zip(clients, scores, strict=True)
    ]


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - begin, 2)
