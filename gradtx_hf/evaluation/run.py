"""``evaluate``: fine-tune the clients, their ceilings and the public control, translate, score all, report.

The output folder holds, besides the report:

    evaluation.json    the arguments, and the SHA-256 of the translator's, the store's and local clients' files
    translator/        a copy of the translator, whose initial adapters all fine-tuning starts from
    public_finetune/   the adapter of the public control
    clients/           a folder per client with its adapters ``source``, ``ceiling`` and ``translated``
    seconds.json       phase to seconds, added up over all runs of the command in this folder

So an interrupted evaluation goes on where it was, with the same arguments and inputs or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradtx_hf.client import fine_tune_client
from gradtx_hf.curation import pooled_public_examples
from gradtx_hf.errors import OutputExistsError
from gradtx_hf.evaluation.arguments import HIGHER_IS_BETTER, ClientData, EvaluationArguments
from gradtx_hf.evaluation.controls import State, partners, target_states
from gradtx_hf.evaluation.inputs import TEST_SEED, check_data, check_translator_and_store, input_digests
from gradtx_hf.evaluation.report import Report
from gradtx_hf.evaluation.saving import save_report
from gradtx_hf.evaluation.scoring import ScoringSettings, score_states
from gradtx_hf.evaluation.seconds import read_seconds, timed
from gradtx_hf.evaluation.summary import ClientScores
from gradtx_hf.finetuning import FineTuningRecipe, Sample, load_samples
from gradtx_hf.finetuning.pool import one_thread, run_jobs
from gradtx_hf.hub import resolve_folder
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import require_new_folder, write_json
from gradtx_hf.translation import SOURCE_INIT, TARGET_INIT, PeftTranslator
from gradtx_hf.updates.store import UpdateStore


logger = logging.getLogger(__name__)

CONFIG_FILE = "evaluation.json"


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

    The report's seconds are added up over all runs of the command in this folder: an interrupted and continued
    evaluation tells what it took, but for the phase in which a process was killed.

    Args:
        arguments: Whom to evaluate and how.
        command: The command line that makes this report, to be printed in it.

    Raises:
        GradTxError: If the translator, the store or the data cannot be used, or the folder holds something else,
            such as an evaluation of other inputs; the message names the first that has changed.
    """
    translator = PeftTranslator.from_pretrained(arguments.translator)
    store = UpdateStore.open(arguments.store)
    clients = arguments.client_data()
    check_translator_and_store(translator, store)
    check_data(clients, metric=arguments.metric)
    if not (Path(arguments.output_dir) / CONFIG_FILE).is_file():
        pooled_public_examples(store)  # to see that they are what they were
    folder = _claim(arguments, input_digests(resolve_folder(arguments.translator).path, store, clients))
    with timed(folder, "fine_tuning"):
        inits = _write_inits(translator, folder)
        jobs = _fine_tuning_jobs(arguments, store, inits=inits, folder=folder)
        missing = [job for job in jobs if not Path(job.output_dir).is_dir()]
        for _ in run_jobs(perform_fine_tuning, missing, num_workers=arguments.num_workers, description="fine-tuning"):
            pass
    with timed(folder, "translation_and_controls"):
        aligned = [
            translator.read(
                load_adapter(_client_folder(folder, i, client) / "source"),
                allow_other_start=arguments.allow_other_start,
                allow_other_base=True,
            ).alignment.state
            for i, client in enumerate(clients)
        ]
        states = target_states(
            {"source": translator.source_init, "target": translator.target_init},
            store,
            aligned,
            translated=[_translated(translator, folder, i, client) for i, client in enumerate(clients)],
            shuffled=partners([client.task for client in clients], [client.seen for client in clients]),
        )
        public = load_adapter(folder / "public_finetune").tensors
        for i, client in enumerate(clients):
            states[i]["public_finetune"] = public
            states[i]["ceiling"] = load_adapter(_client_folder(folder, i, client) / "ceiling").tensors
    with timed(folder, "scoring"):
        scored = _score(arguments, inits, clients=clients, states=states, source_states=aligned)
    report = Report.from_clients(
        scored,
        metric=arguments.metric,
        higher_is_better=HIGHER_IS_BETTER[arguments.metric],
        seconds=read_seconds(folder),
        config=asdict(arguments),
        command=command,
    )
    save_report(report, folder)
    logger.info("wrote %s", folder / "report.md")
    return report


def perform_fine_tuning(job: FineTuningJob) -> None:
    """Fine-tune one adapter; a client's, a ceiling, or, without samples, the public control on the pooled data."""
    with one_thread():
        examples = (
            pooled_public_examples(UpdateStore.open(job.store))
            if job.samples is None
            else load_samples(job.samples, seed=job.seed)
        )
        fine_tune_client(job.init, examples, recipe=job.recipe, output_dir=job.output_dir, seed=job.seed)


def perform_scoring(job: ScoringJob) -> dict[str, float]:
    """Score every method of one job."""
    with one_thread():
        examples = load_samples(job.samples, seed=TEST_SEED)
        return score_states(job.init, job.states, examples, settings=job.settings)


def client_folder_name(index: int, client: ClientData) -> str:
    """Return the name of a client's folder in the output: its index and task, in safe characters."""
    safe = "".join(character if character.isalnum() or character in "-_+" else "-" for character in client.task)
    return f"{index:03d}-{safe}"


def _client_folder(folder: Path, index: int, client: ClientData) -> Path:
    return folder / "clients" / client_folder_name(index, client)


def _claim(arguments: EvaluationArguments, inputs: Mapping[str, str]) -> Path:
    """Make the output folder ours, or go on in it if it holds this very evaluation of these very inputs."""
    folder = Path(arguments.output_dir)
    values = json.loads(json.dumps({"arguments": asdict(arguments) | {"num_workers": None}, "inputs": inputs}))
    path = folder / CONFIG_FILE
    if path.is_file():
        difference = _first_difference(json.loads(path.read_text(encoding="utf-8")), values)
        if difference:
            raise OutputExistsError(
                f"'{folder}' holds another evaluation: {difference}. Put it back, name a new folder, or remove this "
                "one first."
            )
        return folder
    require_new_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return folder


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first argument or input that is not what it was."""
    for part in ("arguments", "inputs"):
        old, new = before.get(part, {}), now[part]
        for name in (*new, *old):
            if old.get(name) != new.get(name):
                return f"{name} has changed"
    return None


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
    public_recipe = FineTuningRecipe.from_dict(arguments.public_recipe or store.plan["target"]["recipe"])

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


def _translated(translator: PeftTranslator, folder: Path, index: int, client: ClientData) -> State:
    """Return what is in a client's ``translated`` folder, which is written if it is not there: what is scored."""
    home = _client_folder(folder, index, client)
    if not (home / "translated").is_dir():
        adapter = load_adapter(home / "source", name=f"{client.task}, seed {client.seed}")
        translated = translator.translate(adapter, allow_other_start=True, allow_other_base=True)
        translated.save_pretrained(home / "translated")
    return dict(load_adapter(home / "translated").tensors)


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
