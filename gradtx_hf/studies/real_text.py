"""Study ``real_text``: questions and summaries whose prompts tell the task, with models pretrained on public halves.

``real_text.yaml`` beside this file says what is run, as a study of the paper does: one cell scored by the bits of the
answers, one by each task's own score on the same adapters. The data are the user's; their folder holds the original
files. Source: ours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.evaluation import Report
from gradtx_hf.evaluation.headline import format_score, group_title, headline
from gradtx_hf.evaluation.markdown import lead_table, summary_table
from gradtx_hf.evaluation.methods import TRANSLATED, method_of, ordered_methods
from gradtx_hf.evaluation.pooling import join_reports
from gradtx_hf.evaluation.saving import draw_report, write_report_files
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.studies.claim import claim_folder
from gradtx_hf.studies.paper.definition import STAGES, PaperCell, PaperStudy, load_paper_study
from gradtx_hf.studies.paper.report import STAGES_FILE, WARNING, cell_folder
from gradtx_hf.studies.paper.run import run_cell
from gradtx_hf.studies.paper.tiny import tiny_cell
from gradtx_hf.yaml_files import expand_variables


logger = logging.getLogger(__name__)

NAME = "real_text"
FILE = Path(__file__).parent / "real_text.yaml"
GENERALISTS = ("public_finetune", "shadow_mean", "shuffled_input")
"""Controls that know nothing of the client."""


@dataclass(frozen=True)
class RealTextReport:
    """What the study found.

    Attributes:
        study: The study.
        reports: Name of each cell that is done to its report.
        is_dry_run: Whether the numbers mean nothing.
        command: The command line.
    """

    study: PaperStudy
    reports: Mapping[str, Report]
    is_dry_run: bool
    command: str

    def to_json(self) -> dict[str, Any]:
        """Return the contents of report.json: the first cell's report, and every other under the cell's name."""
        first, *others = self.reports
        return self.reports[first].to_json() | {name: self.reports[name].to_json() for name in others}


def real_text_study() -> PaperStudy:
    """Return the study as its file has it."""
    return load_paper_study(FILE)


def run_real_text_study(
    output_dir: str | Path,
    *,
    data: str | Path | None,
    num_seeds: int = 1,
    is_dry_run: bool = False,
    command: str = "",
) -> RealTextReport:
    """Pretrain, curate, train and evaluate, each where it was interrupted, and write ``report.{json,md,png}``.

    Args:
        output_dir: Its folder; one that holds the same study is continued.
        data: Folder of the original files; not read in a dry run.
        num_seeds: Seeds 0 … num_seeds - 1 of the clients' rows and fine-tuning; the models, the store and the
            translator are one for all.
        is_dry_run: Go the whole way with tiny models and made-up rows; the numbers mean nothing.
        command: The command line, for the report.

    Raises:
        ConfigurationError: If no data are named, or ``num_seeds`` is below 1.
        MissingFileError: If the data are not there.
        OutputExistsError: If the folder holds something else.
        GradTxError: If a stage fails.
    """
    if num_seeds < 1:
        raise ConfigurationError(f"got {num_seeds} seeds, expected at least 1.")
    if not is_dry_run:
        _require_data(data)
    study, folder = real_text_study(), Path(output_dir)
    claim_folder(folder, {"study": asdict(study), "is_dry_run": is_dry_run})
    for seed in range(num_seeds):
        for cell in study.cells:
            logger.info("cell %s, seed %d", cell.name, seed)
            chosen = _tiny(cell, folder) if is_dry_run else with_data(cell, str(data))
            run_cell(chosen, folder, seed=seed, num_processes=1, translator_seed=0)
    report = RealTextReport(study, _read(study, folder, num_seeds), is_dry_run, command)
    _save(report, folder)
    return report


def with_data(cell: PaperCell, data: str) -> PaperCell:
    """Return a cell that reads the original files of a folder."""
    variables = {"DATA": str(Path(data).expanduser().absolute())}
    stages = {stage: expand_variables(getattr(cell, stage), label=str(FILE), variables=variables) for stage in STAGES}
    return replace(cell, **stages)


def render_real_text(report: RealTextReport, *, has_plot: bool = False) -> str:
    """Return the text of report.md."""
    study = report.study
    sections = [
        f"# {study.title}",
        WARNING if report.is_dry_run else "",
        study.question,
        study.note,
        "![Scores of all methods](report.png)" if has_plot else "",
    ]
    for name, found in report.reports.items():
        sections += [
            f"## {study.cell(name).label.capitalize()}",
            "Seeds share the translator and the held-out rows: intervals and p are over tasks, whatever the seed.",
            "\n\n".join(f"{headline(found, group)} {generalists(found, group)}".strip() for group in found.groups),
            task_table(found),
            summary_table(found),
            "\n".join(f"- Not run: {method_of(method).label}: {why}" for method, why in found.not_run.items()),
            lead_table(found),
        ]
    seconds = [[name, f"{value:.0f}"] for found in report.reports.values() for name, value in found.seconds.items()]
    sections += ["## Seconds of the evaluations\n\n" + markdown_table(["phase", "seconds"], seconds)]
    sections += [f"Written by `{report.command}`." if report.command else ""]
    return "\n\n".join(section for section in sections if section) + "\n"


def generalists(report: Report, group: str) -> str:
    """Say how much of the gain is there without the client's adapter; empty where no gain is known."""
    methods = report.summary[group].methods
    shares = {name: methods[name].gain_recovered.value for name in (*GENERALISTS, TRANSLATED) if name in methods}
    known = {name: value for name, value in shares.items() if value is not None}
    if TRANSLATED not in known or len(known) < 2:
        return ""
    own = known.pop(TRANSLATED)
    listed = ", ".join(f"{method_of(name).short} {value:.0%}" for name, value in known.items())
    return f"Without the client's own adapter: {listed}; with it {own:.0%}."


def task_table(report: Report) -> str:
    """Return the mean score of every method on every task."""
    tasks = list(dict.fromkeys(client.task for client in report.clients))
    rows = []
    for name in ordered_methods(name for client in report.clients for name in client.scores):
        found = [[c.scores.get(name) for c in report.clients if c.task == task] for task in tasks]
        means = [[score for score in scores if score is not None] for scores in found]
        rows.append([method_of(name).label, *(format_score(sum(m) / len(m) if m else None) for m in means)])
    seen = {client.task: client.seen for client in report.clients}
    heads = [f"{task.replace('_', ' ')}{'' if seen[task] else ' (unseen)'}" for task in tasks]
    sizes = {group: report.summary[group].num_clients for group in report.groups}
    titles = " and ".join(group_title(group, num_clients=size).lower() for group, size in sizes.items())
    return f"Means over clients, task by task; {titles}.\n\n{markdown_table(['method', *heads], rows)}"


def _tiny(cell: PaperCell, folder: Path) -> PaperCell:
    """Return a cell at toy size, with two of its clients."""
    tiny = tiny_cell(cell, folder)
    return replace(tiny, evaluate={**tiny.evaluate, "clients": tiny.evaluate["clients"][:2]})


def _read(study: PaperStudy, folder: Path, num_seeds: int) -> dict[str, Report]:
    found = {}
    for cell in study.cells:
        homes = [cell_folder(folder, cell.name, seed) for seed in range(num_seeds)]
        reports = [Report.load(home) for home in homes if (home / STAGES_FILE).is_file()]
        if reports:
            found[cell.name] = reports[0] if len(reports) == 1 else join_reports(reports)
    return found


def _require_data(data: str | Path | None) -> None:
    if data is None:
        raise ConfigurationError(f"study '{NAME}' reads data sets of your own. Name their folder with --data DIR.")
    if not Path(data).expanduser().is_dir():
        raise MissingFileError(f"the folder of the data sets, '{data}', is not there. Name it with --data DIR.")


def _save(report: RealTextReport, folder: Path) -> None:
    """Write report.png, where there is matplotlib, report.md, and report.json last."""
    write_report_files(
        folder,
        draw=lambda: draw_report(next(iter(report.reports.values()))),
        render=lambda plot_file: render_real_text(report, has_plot=plot_file is not None),
        values=report.to_json(),
    )
