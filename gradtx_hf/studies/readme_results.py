"""Rebuild the README's results from reports that are kept beside the examples.

    python -m gradtx_hf.studies.readme_results --add quickstart_seed_0 quickstart

``--add NAME FOLDER`` keeps a report's numbers as ``examples/results/NAME.json``, without paths of the machine. Every
section of the README between ``<!-- results: NAME ... -->`` and ``<!-- end results -->`` is then written anew: of one
report the verdict and the table of methods, of several reports one column each. Source: ours.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from gradtx_hf.evaluation import METHODS, Report
from gradtx_hf.evaluation.headline import format_score, headline
from gradtx_hf.evaluation.markdown import summary_table
from gradtx_hf.output import write_json, write_text


RESULTS_FOLDER = Path("examples") / "results"
SECTION = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(<!-- end results -->)", re.DOTALL)
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
    path = root / RESULTS_FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return path


def render_results(readme: str, *, root: Path) -> str:
    """Return the README's text with every results section written anew."""

    def section(match: re.Match[str]) -> str:
        reports = {name: Report.load(root / RESULTS_FOLDER / f"{name}.json") for name in match[2].split()}
        body = _one_report(*reports.values()) if len(reports) == 1 else _several_reports(reports)
        return f"{match[1]}{body}\n{match[3]}"

    return SECTION.sub(section, readme)


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


def main() -> None:
    """Run from the command line, in the repository."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--add", nargs=2, action="append", default=[], metavar=("NAME", "FOLDER"))
    arguments = parser.parse_args()
    for name, folder in arguments.add:
        print(keep_report(name, Path(folder), root=Path()))
    readme = Path("README.md")
    write_text(readme, render_results(readme.read_text(encoding="utf-8"), root=Path()))
    print(readme)


if __name__ == "__main__":
    main()
