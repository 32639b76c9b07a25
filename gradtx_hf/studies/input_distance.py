"""Show what the distance of an input tells: which adapters a translator warns of.

    python -m gradtx_hf.studies.input_distance QUICKSTART --output-dir DIR

takes the output folder of a finished ``gradtx quickstart``, makes adapters of many kinds, translates each as a user
would, and writes ``input_distance.{json,md,png}``: distances, how often each kind is warned of, and how well its
distances are told from those of fresh runs of seen rules (AUROC). Several minutes on one core. Source: ours.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gradtx_hf.errors import GradTxError
from gradtx_hf.hub.markdown import markdown_table
from gradtx_hf.lora import Adapter
from gradtx_hf.output import new_folder, write_bytes, write_json, write_text
from gradtx_hf.privacy.two_sample import auc
from gradtx_hf.studies.input_distance_adapters import KINDS, REFERENCE, Role, make_adapters, open_quickstart
from gradtx_hf.studies.input_distance_plot import render_distances_png
from gradtx_hf.translation import PeftTranslator


logger = logging.getLogger(__name__)

NAME = "input_distance"
MOST_WARNED = 0.05
"""Share of fresh seen runs that may be warned of, exclusive."""
LEAST_AUROC = 0.99
"""Of the foreign adapters, all together, against fresh seen runs."""


@dataclass(frozen=True)
class DistanceSettings:
    """How many adapters are made.

    Attributes:
        num_seen: Fresh runs of seen rules; by default two for each.
        num_unseen: Fresh runs of unseen rules; by default two for each.
        num_others: Adapters of every other kind.
        pretraining_divisor: Divides the steps in which another model is pretrained; for a dry run.
    """

    num_seen: int = 216
    num_unseen: int = 72
    num_others: int = 32
    pretraining_divisor: int = 1


@dataclass(frozen=True)
class KindReport:
    """What was measured of a kind.

    Attributes:
        label: What it is called.
        role: What it is to the translator; see ``Kind``.
        distances: Input distance of every adapter.
        num_warned: Adapters beyond the limit: their translation comes with a warning.
        num_refused: Adapters that ``translate`` refuses unless another start is allowed.
        auroc: Chance that one of it lies farther than a fresh seen run, ties as half; None for those themselves.
    """

    label: str
    role: Role
    distances: tuple[float, ...]
    num_warned: int
    num_refused: int
    auroc: float | None


@dataclass(frozen=True)
class DistanceReport:
    """What the study found.

    Attributes:
        limit: The translator's: what lies farther is warned of.
        kinds: By name, in the order in which they are shown.
        foreign_auroc: Of all foreign adapters together against fresh seen runs.
        settings: How many adapters were made.
        seconds: Wall-clock time.
    """

    limit: float
    kinds: Mapping[str, KindReport]
    foreign_auroc: float
    settings: DistanceSettings
    seconds: float

    @property
    def warned_share(self) -> float:
        """Share of fresh seen runs that are warned of."""
        reference = self.kinds[REFERENCE]
        return reference.num_warned / len(reference.distances)

    def to_json(self) -> dict[str, Any]:
        """Return all values and whether the aims were met."""
        return asdict(self) | {
            "warned_share": self.warned_share,
            "aims_met": {
                f"fewer than {MOST_WARNED:.0%} of fresh seen runs warned of": self.warned_share < MOST_WARNED,
                f"foreign adapters told with AUROC >= {LEAST_AUROC}": self.foreign_auroc >= LEAST_AUROC,
            },
        }


def study_input_distance(
    quickstart: str | Path, output_dir: str | Path, *, settings: DistanceSettings | None = None
) -> DistanceReport:
    """Measure adapters of every kind and write the report.

    Args:
        quickstart: The output folder of a finished ``gradtx quickstart``.
        output_dir: A new folder.
        settings: How many adapters to make.

    Raises:
        MissingFileError: If there is no finished quickstart.
        ConfigurationError: If its translator has no input distance.
        OutputExistsError: If the output folder exists and is not empty.
    """
    begin = time.perf_counter()
    settings = settings or DistanceSettings()
    with new_folder(output_dir) as folder:
        subject = open_quickstart(Path(quickstart))
        numbers: dict[Role, int] = {
            "seen": settings.num_seen,
            "unseen": settings.num_unseen,
            "foreign": settings.num_others,
            "changed": settings.num_others,
        }
        kinds: dict[str, KindReport] = {}
        limit = 0.0
        for name, adapters in make_adapters(subject, numbers=numbers, pretraining_divisor=settings.pretraining_divisor):
            rows = [_translate(subject.translator, adapter) for adapter in adapters]
            limit = rows[0]["input_distance_limit"]
            kinds[name] = _report(name, rows, kinds.get(REFERENCE))
            logger.info("%s: warned of %d of %d", kinds[name].label, kinds[name].num_warned, len(rows))
        foreign = [d for kind in kinds.values() if kind.role == "foreign" for d in kind.distances]
        report = DistanceReport(
            limit=limit,
            kinds=kinds,
            foreign_auroc=auroc(foreign, kinds[REFERENCE].distances),
            settings=settings,
            seconds=round(time.perf_counter() - begin, 1),
        )
        _save(report, folder)
    return report


def auroc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Return the chance that a value drawn from the first lies above one from the second, ties as half.

    Args:
        higher: Values, at least one.
        lower: Values, at least one.
    """
    return auc(torch.tensor(higher, dtype=torch.float64), torch.tensor(lower, dtype=torch.float64))


def _translate(translator: PeftTranslator, adapter: Adapter) -> dict[str, Any]:
    """Return what a translation's report says of its adapter."""
    translated = translator.translate(adapter, allow_other_start=True, allow_other_base=True)
    values: dict[str, Any] = translated.report["adapters"][0]
    return values


def _report(name: str, rows: Sequence[Mapping[str, Any]], reference: KindReport | None) -> KindReport:
    kind = KINDS[name]
    distances = tuple(float(row["input_distance"]) for row in rows)
    refused = [row for row in rows if row["start_distance"] > (row["start_distance_limit"] or 1.0)]
    return KindReport(
        label=kind.label,
        role=kind.role,
        distances=distances,
        num_warned=sum(row["input_distance"] > row["input_distance_limit"] for row in rows),
        num_refused=len(refused),
        auroc=None if reference is None else auroc(distances, reference.distances),
    )


def _save(report: DistanceReport, folder: Path) -> None:
    write_bytes(
        folder / f"{NAME}.png",
        render_distances_png(
            {kind.label: (kind.role, kind.distances) for kind in report.kinds.values()}, limit=report.limit
        ),
    )
    write_text(folder / f"{NAME}.md", _render(report))
    write_json(folder / f"{NAME}.json", report.to_json())


def _render(report: DistanceReport) -> str:
    reference = report.kinds[REFERENCE]
    least = min(kind.auroc or 0.0 for kind in report.kinds.values() if kind.role == "foreign")
    sections = [
        "# The distance of an input",
        "Adapters of many kinds, translated as a user would: which of them does the translator warn of?",
        f"- Fresh runs of seen rules: {reference.num_warned} of {len(reference.distances)} are warned of "
        f"({report.warned_share:.1%}; aim: fewer than {MOST_WARNED:.0%}).\n"
        f"- Foreign adapters: AUROC {report.foreign_auroc:.3f} all together (aim: at least {LEAST_AUROC}), at least "
        f"{least:.3f} for each kind of them.\n"
        f"- Unseen rules, fresh runs: AUROC {_three(report.kinds['unseen'].auroc)}, as it comes.",
        f"![Distances by kind]({NAME}.png)",
        kind_table(report),
        f"Limit {report.limit:.3g}. AUROC: the chance that an adapter lies farther than a fresh run of a seen rule. "
        "Refused: not translated unless another start is allowed. Fresh runs have the store's recipe, and lines and "
        "seeds of their own.",
    ]
    return "\n\n".join(sections) + "\n"


def kind_table(report: DistanceReport) -> str:
    """Return a row per kind as Markdown."""
    rows = []
    for kind in report.kinds.values():
        ordered = sorted(kind.distances)
        rows.append(
            [
                kind.label,
                kind.role,
                str(len(ordered)),
                f"{ordered[len(ordered) // 2]:.2f}",
                f"{ordered[0]:.2f} to {ordered[-1]:.2f}",
                f"{kind.num_warned / len(ordered):.1%}",
                f"{kind.num_refused / len(ordered):.0%}",
                _three(kind.auroc),
            ]
        )
    head = ["adapters", "role", "number", "median distance", "least to most", "warned of", "refused", "AUROC"]
    return markdown_table(head, rows)


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Run the study from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("quickstart", type=Path, help="the output folder of a finished gradtx quickstart")
    parser.add_argument("--output-dir", type=Path, required=True, help="a new folder for the report")
    arguments = parser.parse_args()
    try:
        report = study_input_distance(arguments.quickstart, arguments.output_dir)
    except GradTxError as error:
        sys.exit(f"error: {error}")
    print(kind_table(report))


if __name__ == "__main__":
    main()
