"""The report of a measured shift: shift.json and shift.md. It holds numbers, and no text or place of private data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from gradtx_hf.finetuning.public_data import sha256_of_rows
from gradtx_hf.hub.cards import installed_versions
from gradtx_hf.hub.markdown import code, markdown_table, plain
from gradtx_hf.output import new_folder, write_json, write_text
from gradtx_hf.privacy.shift import LIMITS, Shift, ShiftSettings


REPORT_JSON, REPORT_MD = "shift.json", "shift.md"


@dataclass(frozen=True)
class PublicData:
    """One of the public data sets that private rows were compared with.

    Attributes:
        num_rows: Its rows.
        sha256: Digest of its rows.
        label: What the translator's record calls it; None if it does not name these rows, or there is no record.
    """

    num_rows: int
    sha256: str
    label: str | None


@dataclass(frozen=True)
class ShiftReport:
    """A measured shift and what it was measured with.

    Attributes:
        shift: What was measured.
        settings: How.
        model: The source model.
        translator: The translator whose public data are asked about; None if none was named.
        public: The public data sets.
        num_recorded: Data sets that the translator's record names; None if there is no record.
    """

    shift: Shift
    settings: ShiftSettings
    model: str
    translator: str | None
    public: tuple[PublicData, ...]
    num_recorded: int | None

    @property
    def provenance(self) -> str:
        """Whether the public data are the translator's, in one sentence; empty without a translator."""
        if self.translator is None:
            return ""
        if self.num_recorded is None:
            return (
                f"Translator {self.translator} has no record of its public data: whether these are they is not known."
            )
        known = sum(data.label is not None for data in self.public)
        return (
            f"Of the {len(self.public)} public data sets given, {known} are among the {self.num_recorded} that "
            f"translator {self.translator} was trained on, by the digest of their rows."
        )

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON holds them."""
        return {
            "verdict": self.shift.verdict,
            "is_found": self.shift.is_found,
            **asdict(self.shift),
            "limits": LIMITS,
            "model": self.model,
            "translator": self.translator,
            "public": [asdict(data) for data in self.public],
            "num_recorded": self.num_recorded,
            "settings": asdict(self.settings),
            "versions": installed_versions(),
        }

    def save(self, output_dir: str | Path) -> None:
        """Write shift.md, and last shift.json, into a new folder.

        Raises:
            OutputExistsError: If the folder exists and is not empty.
        """
        with new_folder(output_dir) as folder:
            write_text(folder / REPORT_MD, render_shift(self))
            write_json(folder / REPORT_JSON, self.to_json())


def describe_public(public: Sequence[Dataset], training: Mapping[str, Any] | None) -> tuple[PublicData, ...]:
    """Describe public data sets, and say which of them a translator's record names.

    Args:
        public: The data sets, as ``load_examples`` makes them.
        training: The translator's ``training.json``; None without one.
    """
    labels = {str(row.get("sha256")): str(row.get("label")) for row in recorded_data(training) or []}
    described = []
    for examples in public:
        digest = sha256_of_rows(examples)
        described.append(PublicData(len(examples), digest, labels.get(digest)))
    return tuple(described)


def recorded_data(training: Mapping[str, Any] | None) -> list[Mapping[str, Any]] | None:
    """Return the public data sets that a translator's ``training.json`` names; None where it names none."""
    store = training.get("store") if training is not None else None
    data = store.get("data") if isinstance(store, Mapping) else None
    return [row for row in data if isinstance(row, Mapping)] if isinstance(data, list) and data else None


def render_shift(report: ShiftReport) -> str:
    """Return the text of shift.md."""
    shift, result = report.shift, report.shift.result
    measured = [
        ["AUC (0.5: not told apart, 1: always)", f"{result.auc:.3f} [{result.auc_low:.3f}, {result.auc_high:.3f}]"],
        [f"p-value ({result.num_permutations} permutations)", f"{result.p_value:.3g}"],
        ["Jensen-Shannon divergence, at least", _bound(asdict(result.jensen_shannon))],
        ["KL(private from public), at least", _bound(asdict(result.kl))],
        ["rows of either side compared", f"{shift.num_rows:,}"],
        ["different rows: private, public", f"{shift.num_private:,}, {shift.num_public:,}"],
    ]
    sections = [
        "# Shift between private and public texts",
        f"**{shift.verdict}**",
        LIMITS,
        plain(report.provenance),
        markdown_table(["measured", "value"], measured),
        f"By logistic regression on mean last hidden states of {code(report.model)}, cross-validated. In brackets the "
        "AUC's 95 % interval. The divergences are bounds from below, in nats: the classifier sees no more than its "
        "embeddings show, and the true ones may be larger, or infinite. Measured on this machine; nothing was sent.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _bound(bound: Mapping[str, float]) -> str:
    return f"{bound['estimate']:.3f} (with 95 % confidence {bound['low']:.3f})"
