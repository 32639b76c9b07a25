"""Study ``baselines``: the embedded translator beside every method that could do its job.

Clients hand over an adapter of the small model; some rivals also want private inputs, or decode with three models, or
fine-tune the target anew for every client. Source: ours; the baselines W2S, Conf and VisSup are the paper's.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from gradtx_hf.curation import curate
from gradtx_hf.errors import ConfigurationError, GradTxError
from gradtx_hf.evaluation.fine_tuning import FineTuningJob, pack_jobs, perform_pack
from gradtx_hf.evaluation.saving import draw_report, write_report_files
from gradtx_hf.evaluation.seconds import read_seconds, timed
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.lora import load_adapter
from gradtx_hf.output import write_json
from gradtx_hf.playground import translator_path
from gradtx_hf.studies.baseline_clients import (
    PUBLIC_FINETUNE,
    BaselineClient,
    BaselineSettings,
    baseline_clients,
    fine_tuning_jobs,
    settings_as_json,
)
from gradtx_hf.studies.baseline_methods import CLIENT_FILE, ClientJob, finish_client, make_adapters
from gradtx_hf.studies.baseline_results import BaselinesReport, DecodingCost, measure_decoding
from gradtx_hf.studies.baselines_markdown import render_baselines
from gradtx_hf.studies.claim import claim_folder
from gradtx_hf.studies.client_runs import MOST_AT_ONCE
from gradtx_hf.studies.embedded_translator import SEED as TRANSLATOR_SEED
from gradtx_hf.studies.stages import Task, perform
from gradtx_hf.studies.world import Place, curation_arguments
from gradtx_hf.translation import TARGET_INIT
from gradtx_hf.updates.store import MANIFEST_FILE


logger = logging.getLogger(__name__)

NAME = "baselines"
TITLE = "The translator beside every method that could do its job"
QUESTION = (
    "Which way of bringing a client's fine-tuning to the large model scores best, and what does each of them need?"
)
DECODING_FILE = "decoding.json"


def run_baselines_study(
    output_dir: str | Path,
    *,
    num_seeds: int = 1,
    num_workers: int = 1,
    settings: BaselineSettings | None = None,
    command: str = "",
) -> BaselinesReport:
    """Fine-tune the clients, make every method's adapters, score them, and write ``report.{json,md,png}``.

    Args:
        output_dir: Its folder; one that holds the same study is continued.
        num_seeds: Seeds 0 … num_seeds - 1 are run, each with other clients of the one embedded translator.
        num_workers: One-thread processes side by side; the scores do not depend on it.
        settings: All other numbers.
        command: The command line, for the report.

    Raises:
        ConfigurationError: If a number is below 1.
        OutputExistsError: If the folder holds something else.
        GradTxError: If clients failed, after the others are done; the same command goes on.
    """
    for name, value in (("seeds", num_seeds), ("num_workers", num_workers)):
        if value < 1:
            raise ConfigurationError(f"got {name}={value}, expected at least 1.")
    settings = settings or BaselineSettings()
    folder = claim_folder(Path(output_dir).absolute(), {"study": NAME, "settings": settings_as_json(settings)})
    clients = [client for seed in range(num_seeds) for client in baseline_clients(settings, folder, seed=seed)]
    missing = [client for client in clients if not (client.home / CLIENT_FILE).is_file()]
    store = _curated(settings, folder, num_workers=num_workers)
    public_finetune = folder / PUBLIC_FINETUNE
    with timed(folder, "fine_tuning"):
        jobs = [job for client in missing for job in fine_tuning_jobs(client, settings)]
        if not public_finetune.is_dir():
            jobs.append(_public_job(settings, store, public_finetune))
        tasks = [Task(pack.key, perform_pack, pack) for pack in pack_jobs(jobs, most_at_once=MOST_AT_ONCE)]
        _require_success(perform(tasks, num_workers=num_workers, description="fine-tuning clients and ceilings"))
    with timed(folder, "adapters_alone"):
        for seed in range(num_seeds):
            make_adapters([client for client in clients if client.seed == seed], settings, store)
    with timed(folder, "rivals_and_scoring"):
        finishing = [
            Task(str(job.client.home), finish_client, job)
            for job in (ClientJob(client, settings, store, public_finetune) for client in missing)
        ]
        _require_success(perform(finishing, num_workers=num_workers, description="training rivals and scoring"))
    report = BaselinesReport.read(
        clients,
        settings=settings_as_json(settings),
        study={"name": NAME, "question": QUESTION},
        decoding=_decoding(clients[0], settings, folder),
        seconds=read_seconds(folder),
        command=command,
    )
    _save(report, folder)
    return report


def render_baselines_plan(*, num_seeds: int) -> str:
    """Return what a run of the study would do and cost, in optimizer steps."""
    settings = BaselineSettings()
    recipes = settings.recipes()
    refinement, weak = int(settings.refinement_recipe["num_steps"]), int(settings.weak_recipe["num_steps"])
    rows = [[name, "1", str(recipe.num_steps * recipe.num_parts)] for name, recipe in recipes.items()]
    rows += [["w2s, confidence, vissup, each on public and on private inputs", "6", str(weak)]]
    rows += [["distilled, refined_mean, refined_translation, distilled_same", "4", str(refinement)]]
    sections = [
        f"{NAME}: {TITLE}",
        QUESTION,
        markdown_table(["adapters of a client", "runs", "steps of each"], rows),
        f"{settings.num_seen} clients of seen rules and {settings.num_unseen} of unseen ones, by {num_seeds} "
        f"seed{'' if num_seeds == 1 else 's'}; a store of {settings.world.num_shadow_sets} pairs of shadow runs and "
        f"one {PUBLIC_FINETUNE} for all. Nothing was run or written.",
    ]
    return "\n\n".join(sections)


def _curated(settings: BaselineSettings, folder: Path, *, num_workers: int) -> Path:
    """Return the folder of the store of pairs, which is curated if it is not there.

    Raises:
        GradTxError: If its runs do not start where the embedded translator's clients do.
    """
    place = Place(folder, TRANSLATOR_SEED)
    store = place.store(settings.world)
    with timed(folder, "curation"):
        if not (store / MANIFEST_FILE).is_file():
            curate(curation_arguments(settings.world, place, num_workers=num_workers))
    for side in ("source", "target"):
        got, expected = (load_adapter(home / f"{side}_init").tensors for home in (store, translator_path()))
        if got.keys() != expected.keys() or not all(torch.equal(got[name], expected[name]) for name in expected):
            raise GradTxError(
                f"the {side} runs of '{store}' start elsewhere than the embedded translator's clients, so that its "
                "controls could not be compared. Rebuild the embedded translator with this version."
            )
    return store


def _public_job(settings: BaselineSettings, store: Path, to: Path) -> FineTuningJob:
    init = str(translator_path() / TARGET_INIT)
    return FineTuningJob(init, None, str(store), settings.recipes()[PUBLIC_FINETUNE], 0, str(to))


def _decoding(client: BaselineClient, settings: BaselineSettings, folder: Path) -> DecodingCost:
    """Return what decoding costs, measured once for a folder."""
    path = folder / DECODING_FILE
    if not path.is_file():
        write_json(path, measure_decoding(client, settings).to_json())
    return DecodingCost(**json.loads(path.read_text(encoding="utf-8")))


def _require_success(failures: dict[str, str]) -> None:
    if failures:
        first, why = next(iter(failures.items()))
        raise GradTxError(f"{len(failures)} jobs failed, the first is '{first}': {why} The same command goes on.")


def _save(report: BaselinesReport, folder: Path) -> None:
    """Write report.png, where there is matplotlib, report.md, and report.json last."""
    write_report_files(
        folder,
        draw=lambda: draw_report(report.report),
        render=lambda plot_file: render_baselines(report, title=TITLE, question=QUESTION, plot_file=plot_file),
        values=report.to_json(),
    )
