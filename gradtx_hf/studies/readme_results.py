"""Rebuild the README's results from reports that are kept beside the examples.

    python -m gradtx_hf.studies.readme_results --add quickstart_seed_0 quickstart

``--add NAME FOLDER`` keeps a report's numbers as ``examples/results/NAME.json``, without paths of the machine;
``--add-cells FOLDER ...`` those of studies' cells, under the studies' names; ``--add-baselines FOLDER`` those of study
``baselines``. Then sections of the README are written anew, each up to its ``<!-- end ... -->``:

- ``<!-- results: NAME ... -->``: of one report the verdict and the table of methods, of several one column each;
- ``<!-- cells: NAME ... -->``: one table of the cells of several studies;
- ``<!-- curve: NAME -->``: the cells of one study and their source clients along its axis;
- ``<!-- baselines -->``: what study ``baselines`` found of every method.

Source: ours.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradtx_hf.evaluation import METHODS, Report
from gradtx_hf.evaluation.headline import format_score, headline
from gradtx_hf.evaluation.markdown import summary_table
from gradtx_hf.evaluation.methods import SOURCE_CLIENT, TRANSLATED
from gradtx_hf.output import write_json, write_text
from gradtx_hf.studies.baseline_results import BaselinesReport
from gradtx_hf.studies.baselines_markdown import methods_table, verdict


RESULTS_FOLDER = Path("examples") / "results"
CELLS_FOLDER = RESULTS_FOLDER / "cells"
BASELINES_FILE = RESULTS_FOLDER / "studies" / "baselines.json"
SECTION = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(<!-- end results -->)", re.DOTALL)
CELLS_SECTION = re.compile(r"(<!-- cells: ([\w ]+) -->\n).*?(<!-- end cells -->)", re.DOTALL)
CURVE_SECTION = re.compile(r"(<!-- curve: (\w+) -->\n).*?(<!-- end curve -->)", re.DOTALL)
BASELINES_SECTION = re.compile(r"(<!-- baselines -->\n).*?(<!-- end baselines -->)", re.DOTALL)
GROUPS = ("seen", "unseen")
PATH_KEYS = ("translator", "store", "output_dir", "clients", "rivals", "adapters_from")


def keep_report(name: str, folder: Path, *, root: Path) -> Path:
    """Keep a report's numbers in the repository.

    Args:
        name: Its name among the results.
        folder: The folder that holds its report.json.
        root: The repository.

    Returns:
        The file written.
    """
    values = Report.load(folder).to_json()
    values["config"] = {key: value for key, value in values["config"].items() if key not in PATH_KEYS}
    values["command"] = ""
    return _keep(root / RESULTS_FOLDER / f"{name}.json", values)


def keep_cells(folder: Path, *, root: Path) -> Path:
    """Keep what the README says of a study's cells, under the study's name.

    Args:
        folder: The study's folder.
        root: The repository.

    Returns:
        The file written.
    """
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    study = report["config"]["study"]
    kept = {"study": study, "cells": [_kept_cell(cell) for cell in report["cells"]]}
    kept |= {name: report[name] for name in ("seconds", "versions")}
    return _keep(root / CELLS_FOLDER / f"{study['name']}.json", kept)


def keep_baselines(folder: Path, *, root: Path) -> Path:
    """Keep what study ``baselines`` found, without the command's paths.

    Args:
        folder: The study's folder.
        root: The repository.

    Returns:
        The file written.
    """
    return _keep(root / BASELINES_FILE, BaselinesReport.load(folder).to_json() | {"command": ""})


def _keep(path: Path, values: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return path


def render_results(readme: str, *, root: Path) -> str:
    """Return the README's text with every results section written anew."""

    def section(match: re.Match[str]) -> str:
        reports = {name: Report.load(root / RESULTS_FOLDER / f"{name}.json") for name in match[2].split()}
        body = _one_report(*reports.values()) if len(reports) == 1 else _several_reports(reports)
        return f"{match[1]}{body}\n{match[3]}"

    def cells(match: re.Match[str]) -> str:
        paths = [root / CELLS_FOLDER / f"{name}.json" for name in match[2].split()]
        body = _cells_of_studies([json.loads(path.read_text(encoding="utf-8")) for path in paths])
        return f"{match[1]}{body}\n{match[3]}"

    def curve(match: re.Match[str]) -> str:
        path = root / CELLS_FOLDER / f"{match[2]}.json"
        return f"{match[1]}{_curve(json.loads(path.read_text(encoding='utf-8')))}\n{match[3]}"

    def baselines(match: re.Match[str]) -> str:
        report = BaselinesReport.load(root / BASELINES_FILE)
        verdicts = "\n>\n".join(f"> {verdict(report, group)}" for group in GROUPS)
        return f"{match[1]}{verdicts}\n\n{methods_table(report)}\n{match[2]}"

    for pattern, written in (
        (SECTION, section),
        (CELLS_SECTION, cells),
        (CURVE_SECTION, curve),
        (BASELINES_SECTION, baselines),
    ):
        readme = pattern.sub(written, readme)
    return readme


def _one_report(report: Report) -> str:
    verdicts = "\n>\n".join(f"> {headline(report, group)}" for group in report.groups)
    return f"{verdicts}\n\n{summary_table(report)}"


def _several_reports(reports: dict[str, Report]) -> str:
    """Return means by report: a row per method and group, a column per report."""
    groups: Sequence[str] = next(iter(reports.values())).groups
    lines = [
        "| method | " + " | ".join(f"{group}, {name}" for group in groups for name in reports) + " |",
        "| --- |" + " --- |" * (len(groups) * len(reports)),
    ]
    for method, described in METHODS.items():
        scores = [
            report.summary[group].methods[method].score.mean if method in report.summary[group].methods else None
            for group in groups
            for report in reports.values()
        ]
        lines.append(f"| {described.label} | " + " | ".join(map(format_score, scores)) + " |")
    return "\n".join(lines)


def _kept_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the README says of a study's cell."""

    def scored(method: str) -> dict[str, Any]:
        return {group: cell["summary"][group][method] for group in GROUPS if method in cell["summary"].get(group, {})}

    kept = {key: cell[key] for key in ("label", "status", "study_seeds")} | {TRANSLATED: scored(TRANSLATED)}
    if not cell.get("panel"):
        return kept
    return kept | {key: cell[key] for key in ("x", "series", "panel")} | {SOURCE_CLIENT: scored(SOURCE_CLIENT)}


def _cells_of_studies(studies: Sequence[Mapping[str, Any]]) -> str:
    """Return one table: a row per cell that was run, with its score and share of the gain, on seen and unseen tasks."""
    lines = ["| study | cell | seen | gain | unseen | gain |", "| --- |" + " --- |" * 5]
    for study in studies:
        for number, cell in enumerate(cell for cell in study["cells"] if cell["status"] != "not run"):
            name = f"`{study['study']['name']}`" if number == 0 else ""
            lines.append(f"| {name} | {cell['label']} | " + " | ".join(_numbers_of_cell(cell)) + " |")
    return "\n".join(lines)


def _curve(study: Mapping[str, Any]) -> str:
    """Return one table: a row per place on the axis; per panel the source client and every series, seen / unseen."""
    cells = {(cell["panel"], cell["series"], cell["x"]): cell for cell in study["cells"]}
    panels: dict[str, list[str]] = {cell["panel"]: [] for cell in study["cells"]}
    for panel, series, _ in cells:
        panels[panel] += [] if series in panels[panel] else [series]
    columns = [(panel, series) for panel, found in panels.items() for series in (None, *found)]
    heads = [f"{panel}: {series or 'source client'}" for panel, series in columns]
    lines = [f"| {study['study']['x_axis']} | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(columns)]
    for x in dict.fromkeys(cell["x"] for cell in study["cells"]):
        shown = []
        for panel, series in columns:
            cell = cells.get((panel, series or panels[panel][0], x))
            found = {} if cell is None else cell[TRANSLATED if series else SOURCE_CLIENT]
            shown.append(" / ".join(f"{found[g]['score']['mean']:.2f}" for g in GROUPS if g in found) or "-")
        lines.append(f"| {x} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _numbers_of_cell(cell: Mapping[str, Any]) -> list[str]:
    found = []
    for group in GROUPS:
        values = cell[TRANSLATED].get(group)
        if values is None:
            found += [str(cell["status"]), "-"]
            continue
        score, gain = values["score"], values["gain_recovered"]
        spread = "" if score["low"] is None else f" [{score['low']:.2f}, {score['high']:.2f}]"
        found += [f"{score['mean']:.3f}{spread}", "-" if gain["value"] is None else f"{gain['value']:.2f}"]
    return found


def main() -> None:
    """Run from the command line, in the repository."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--add", nargs=2, action="append", default=[], metavar=("NAME", "FOLDER"))
    parser.add_argument("--add-cells", nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--add-baselines", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    for name, folder in arguments.add:
        print(keep_report(name, Path(folder), root=Path()))
    for folder in arguments.add_cells:
        print(keep_cells(Path(folder), root=Path()))
    if arguments.add_baselines is not None:
        print(keep_baselines(arguments.add_baselines, root=Path()))
    readme = Path("README.md")
    write_text(readme, render_results(readme.read_text(encoding="utf-8"), root=Path()))
    print(readme)


if __name__ == "__main__":
    main()
