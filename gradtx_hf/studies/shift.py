"""Study ``shift``: does the shift of a client's texts foretell what a translator recovers of its gain?

Clients of the embedded translator whose data move away from its public data, in their rule or in their letters. Beside
the shift that ``gradtx shift`` estimates from the texts stands the input distance of the client's adapter, which the
translator measures itself. Source: ours; the question is that of the paper's Theorem 5.2.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gradtx_hf.errors import ConfigurationError, GradTxError
from gradtx_hf.evaluation import Report
from gradtx_hf.evaluation.fine_tuning import pack_jobs, perform_pack
from gradtx_hf.evaluation.saving import write_report_files
from gradtx_hf.evaluation.seconds import read_seconds, timed
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.claim import claim_folder
from gradtx_hf.studies.client_runs import MOST_AT_ONCE
from gradtx_hf.studies.shift_clients import (
    CLIENT_FILE,
    ClientMeasurement,
    ShiftedClient,
    ShiftStudySettings,
    fine_tuning_jobs,
    measure_client,
    shifted_clients,
)
from gradtx_hf.studies.shift_markdown import render_shift_study
from gradtx_hf.studies.shift_results import ShiftPoint, ShiftStudyReport, correlations
from gradtx_hf.studies.stages import Task, perform


logger = logging.getLogger(__name__)


NAME = "shift"
TITLE = "The shift of a client's texts, and the gain that is recovered"
QUESTION = "Does the shift between public and private texts foretell how much of the gain a translator recovers?"


def run_shift_study(
    output_dir: str | Path,
    *,
    num_seeds: int = 1,
    num_workers: int = 1,
    settings: ShiftStudySettings | None = None,
    command: str = "",
) -> ShiftStudyReport:
    """Fine-tune the clients, translate and score them, measure their shifts, and write ``report.{json,md,png}``.

    Args:
        output_dir: Its folder; one that holds the same study is continued.
        num_seeds: Seeds 0 … num_seeds - 1 are run, each with other pairs of rules.
        num_workers: One-thread processes side by side; the numbers do not depend on it.
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
    settings = settings or ShiftStudySettings()
    folder = claim_folder(Path(output_dir).absolute(), {"study": NAME, "settings": asdict(settings)})
    clients = [client for seed in range(num_seeds) for client in shifted_clients(settings, folder, seed=seed)]
    missing = [client for client in clients if not (client.home / CLIENT_FILE).is_file()]
    jobs = [job for client in missing for job in fine_tuning_jobs(client, settings)]
    with timed(folder, "fine_tuning"):
        tasks = [Task(pack.key, perform_pack, pack) for pack in pack_jobs(jobs, most_at_once=MOST_AT_ONCE)]
        _require_success(perform(tasks, num_workers=num_workers, description="fine-tuning clients and ceilings"))
    with timed(folder, "measuring"):
        measurements = [ClientMeasurement(client, _partner(client, clients), settings) for client in missing]
        scorings = [Task(str(job.client.home), measure_client, job) for job in measurements]
        _require_success(perform(scorings, num_workers=num_workers, description="scoring and measuring shifts"))
    points = tuple(ShiftPoint.read(client) for client in clients)
    found = ShiftStudyReport(
        points=points,
        report=Report.from_clients(
            [point.scores for point in points],
            metric="exact_match",
            higher_is_better=True,
            seconds=read_seconds(folder),
            config={"study": {"name": NAME, "question": QUESTION, "settings": asdict(settings)}, "seeds": num_seeds},
            command=command,
        ),
        correlations=correlations(points),
    )
    _save(found, folder)
    return found


def render_shift_plan(*, num_seeds: int) -> str:
    """Return what a run of the study would do and cost, in optimizer steps."""
    settings = ShiftStudySettings()
    rows = [[condition.series, condition.label, str(settings.num_pairs)] for condition in settings.conditions]
    num_clients = len(rows) * settings.num_pairs
    client_steps = settings.num_parts * int(settings.source_recipe["num_steps"])
    sections = [
        f"{NAME}: {TITLE}",
        QUESTION,
        markdown_table(["series", "clients' data", "clients"], rows),
        f"{num_clients} clients of {client_steps} steps and as many ceilings of {settings.num_ceiling_steps}, for the "
        f"embedded translator, by {num_seeds} seed{'' if num_seeds == 1 else 's'}. Nothing was run or written.",
    ]
    return "\n\n".join(sections)


def _partner(client: ShiftedClient, clients: Sequence[ShiftedClient]) -> ShiftedClient:
    """Return the client of the same condition and the next pair of rules: its adapter is the shuffled input."""
    alike = [other for other in clients if (other.seed, other.condition) == (client.seed, client.condition)]
    return alike[(alike.index(client) + 1) % len(alike)]


def _require_success(failures: dict[str, str]) -> None:
    if failures:
        first, why = next(iter(failures.items()))
        raise GradTxError(f"{len(failures)} jobs failed, the first is '{first}': {why} The same command goes on.")


def _save(report: ShiftStudyReport, folder: Path) -> None:
    """Write report.png, where there is matplotlib, report.md, and report.json last."""
    write_report_files(
        folder,
        draw=lambda: _draw(report),
        render=lambda plot_file: render_shift_study(report, title=TITLE, question=QUESTION, plot_file=plot_file),
        values=report.to_json(),
    )


def _draw(report: ShiftStudyReport) -> bytes:
    from gradtx_hf.studies.shift_plot import render_shift_png  # here, as matplotlib is optional and slow to import

    return render_shift_png(report)
