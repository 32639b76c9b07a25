"""What study ``baselines`` found: the report, what each method needs and costs, and the refinement step by step.

Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gradtx_hf.baselines.decoding_cost import flops_per_token, processor_seconds_of
from gradtx_hf.errors import DataError
from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.evaluation.method_adapters import proxy_tuned
from gradtx_hf.evaluation.method_settings import SOURCE_BEST
from gradtx_hf.evaluation.needs import NEEDS
from gradtx_hf.finetuning import generate_completions, load_language_model, load_samples
from gradtx_hf.playground import source_path, target_path, translator_path
from gradtx_hf.studies.baseline_clients import BaselineClient, BaselineSettings
from gradtx_hf.studies.baseline_methods import CLIENT_FILE, MAX_NEW_TOKENS
from gradtx_hf.translation import TARGET_INIT


NUM_REPEATS = 3
NUM_TIMED_PROMPTS = 64


@dataclass(frozen=True)
class DecodingCost:
    """What decoding costs in units of the target's own, its adapter merged: by count, and by the processor's time.

    Attributes:
        source_flops: Operations per token of the small model.
        three_flops: Operations per token of proxy tuning.
        three_seconds: Processor time of proxy tuning.
    """

    source_flops: float
    three_flops: float
    three_seconds: float

    def to_json(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def measure_decoding(client: BaselineClient, settings: BaselineSettings) -> DecodingCost:
    """Measure what decoding a client's held-out lines costs."""
    target, _ = load_language_model(str(target_path()))
    source, _ = load_language_model(str(source_path()))
    proxy, tokenizer = proxy_tuned(client.home / SOURCE_BEST, translator_path() / TARGET_INIT)
    prompts = load_samples([client.lines(settings, "test")], seed=0)["prompt"][:NUM_TIMED_PROMPTS]
    alone, three = (
        processor_seconds_of(
            partial(generate_completions, model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS),
            num_repeats=NUM_REPEATS,
        )
        for model in (target, proxy)
    )
    share = flops_per_token(source) / flops_per_token(target)
    return DecodingCost(source_flops=share, three_flops=1 + 2 * share, three_seconds=three / alone)


@dataclass(frozen=True)
class BaselinesReport:
    """The study's report.

    Attributes:
        report: Scores of all methods on all clients.
        decoding: What decoding costs.
        curves: Group of clients to method by distillation to step to mean score.
    """

    report: Report
    decoding: DecodingCost
    curves: Mapping[str, Mapping[str, Mapping[int, float]]]

    @classmethod
    def read(
        cls,
        clients: Sequence[BaselineClient],
        *,
        settings: Mapping[str, Any],
        study: Mapping[str, str],
        decoding: DecodingCost,
        seconds: Mapping[str, float],
        command: str,
    ) -> BaselinesReport:
        """Read what was found on clients that are done.

        Args:
            clients: The clients.
            settings: The study's settings, as JSON values.
            study: Its name and question.
            decoding: What decoding costs.
            seconds: Phase to wall-clock seconds.
            command: The command line.
        """
        values = [json.loads((client.home / CLIENT_FILE).read_text(encoding="utf-8")) for client in clients]
        report = Report.from_clients(
            [_in_order(ClientScores(**value["scores"])) for value in values],
            metric="exact_match",
            higher_is_better=True,
            seconds=seconds,
            config={
                "study": {**study, "settings": settings},
                "seeds": len({client.seed for client in clients}),
                "num_target_runs": settings["world"]["num_rules"] * settings["world"]["runs_per_rule"],
            },
            command=command,
        )
        curves = {
            group: _mean_curves([value["curves"] for value in values if value["scores"]["seen"] is seen])
            for group, seen in (("seen", True), ("unseen", False))
        }
        return cls(report, decoding, curves)

    @classmethod
    def load(cls, path: Path) -> BaselinesReport:
        """Read what ``to_json`` returned from a file, or from the report.json of a folder.

        Raises:
            MissingFileError: If there is no such file.
            DataError: If the file is no report of this study.
        """
        report = Report.load(path)
        file = path / "report.json" if path.is_dir() else path
        values = json.loads(file.read_text(encoding="utf-8"))
        if not {"decoding", "curves"} <= values.keys():
            raise DataError(f"report '{file}' is none of study baselines: it lacks decoding or curves.")
        curves = {
            group: {name: {int(step): score for step, score in curve.items()} for name, curve in methods.items()}
            for group, methods in values["curves"].items()
        }
        return cls(report, DecodingCost(**values["decoding"]), curves)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of report.json: those of every report, and ``decoding``, ``needs`` and ``curves``."""
        return self.report.to_json() | {
            "decoding": self.decoding.to_json(),
            "needs": {name: asdict(needs) for name, needs in NEEDS.items()},
            "curves": self.curves,
        }


def _in_order(client: ClientScores) -> ClientScores:
    """Return a client's scores in the order of ``NEEDS``, in which tables show them."""
    return replace(client, scores={name: client.scores[name] for name in NEEDS})


def _mean_curves(curves: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[int, float]]:
    return {
        name: {int(step): fmean(curve[name][step] for curve in curves) for step in curves[0][name]}
        for name in (curves[0] if curves else {})
    }
