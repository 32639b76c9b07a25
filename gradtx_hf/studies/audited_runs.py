"""Audit thirty private runs on the embedded source model: does a lower bound exceed the epsilon that is claimed?

    python -m gradtx_hf.studies.audited_runs --output-dir DIR

writes ``audited_runs.{json,md,png}``. First the trainer's gradient self-test. Then runs with gradient canaries, white
box, each at confidence 1 - 0.05 / runs, so that all bounds hold together with 95 %. Then controls, which a working
audit must catch: a run with far too little noise, and one without privacy whose text canaries are rows with random
completions, beside a private run of the same kind. The playground's own clients are hard to catch, as their lines have
no secret and rank 2 holds little: here the rank is 8 or 16, the rows are few, and the canaries' completions random.
Every finished run is kept; the same command goes on where it stopped. About three minutes on one core. Source: ours.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm

from gradtx_hf.errors import ConfigurationError, GradTxError
from gradtx_hf.finetuning import (
    FineTuningRecipe,
    PrivacySettings,
    add_adapter,
    load_language_model,
    tokenize_examples,
)
from gradtx_hf.hub.cards import installed_versions
from gradtx_hf.output import write_bytes, write_json, write_text
from gradtx_hf.playground import Rule, make_lines, source_path
from gradtx_hf.playground.world import LETTERS, NUM_POSITIONS
from gradtx_hf.privacy.audited import AuditedRun, audit_gradients, audit_texts
from gradtx_hf.privacy.canaries import make_text_canaries
from gradtx_hf.privacy.self_test import gradient_self_test
from gradtx_hf.studies.audited_runs_markdown import NAME, SELF_TEST, render_markdown, run_table
from gradtx_hf.studies.audited_runs_plot import render_bounds_png


logger = logging.getLogger(__name__)

RULE = Rule("reverse", 3)
MODULES = ("q_proj", "v_proj")
MAX_LENGTH = 32
ERROR = 0.05
"""Probability that any of the bounds does not hold, at most."""
LITTLE_NOISE, TEXT_PRIVATE, TEXT_PLAIN = "gradient_little_noise", "text_private", "text_not_private"


@dataclass(frozen=True)
class AuditSettings:
    """How runs are made.

    Attributes:
        num_runs: Private runs with gradient canaries.
        epsilon: What each claims.
        delta: At which.
        num_rows: Genuine rows, of one edit rule.
        gradient_canaries: Canaries of each run.
        gradient_rank: LoRA rank of these runs.
        gradient_steps: Their optimizer steps, of ``num_rows / 4`` rows on average.
        little_noise: Noise multiplier of the control that is caught.
        text_canaries: Canaries of the two runs with texts.
        text_rank: LoRA rank of these runs.
        text_steps: Their optimizer steps, of 64 rows.
    """

    num_runs: int = 30
    epsilon: float = 2.0
    delta: float = 1e-5
    num_rows: int = 64
    gradient_canaries: int = 2000
    gradient_rank: int = 8
    gradient_steps: int = 30
    little_noise: float = 0.5
    text_canaries: int = 300
    text_rank: int = 16
    text_steps: int = 400

    @property
    def confidence(self) -> float:
        """Of each run's bound."""
        return 1 - ERROR / self.num_runs


def study_audited_runs(output_dir: str | Path, *, settings: AuditSettings | None = None) -> dict[str, Any]:
    """Audit all runs and write the report.

    Args:
        output_dir: The folder; runs that are finished in it are kept.
        settings: How runs are made.

    Returns:
        The report, as JSON values.

    Raises:
        ConfigurationError: If the folder holds runs of other settings.
        MissingExtraError: If Opacus is not installed.
    """
    settings = settings or AuditSettings()
    folder = Path(output_dir)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    _require_same_settings(folder / "settings.json", asdict(settings))
    begin = time.perf_counter()
    runs: dict[str, Any] = {}
    for name, make in tqdm(_runs(settings).items(), desc="audited runs", unit="run", file=sys.stderr):
        path = folder / "runs" / f"{name}.json"
        if not path.exists():
            start = time.perf_counter()
            write_json(path, make() | {"seconds": round(time.perf_counter() - start, 2)})
        runs[name] = json.loads(path.read_text(encoding="utf-8"))
    report = _report(runs, settings) | {"seconds": round(time.perf_counter() - begin, 1)}
    bounds = {name: run["bound"]["epsilon"] for name, run in runs.items() if name != SELF_TEST}
    write_bytes(folder / f"{NAME}.png", render_bounds_png(bounds, claimed=settings.epsilon))
    write_text(folder / f"{NAME}.md", render_markdown(report))
    write_json(folder / f"{NAME}.json", report)
    logger.info("wrote %s", folder / f"{NAME}.md")
    return report


def _runs(settings: AuditSettings) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what makes each run, by name, in order."""
    claimed = PrivacySettings(epsilon=settings.epsilon, delta=settings.delta)
    little = PrivacySettings(noise_multiplier=settings.little_noise, delta=settings.delta)
    runs: dict[str, Callable[[], dict[str, Any]]] = {SELF_TEST: lambda: _self_test(settings)}
    for number in range(1, settings.num_runs + 1):
        runs[f"gradient_{number:02d}"] = lambda: _gradient_run(settings, claimed)
    runs[LITTLE_NOISE] = lambda: _gradient_run(settings, little)
    runs[TEXT_PRIVATE] = lambda: _text_run(settings, claimed)
    runs[TEXT_PLAIN] = lambda: _text_run(settings, None)
    return runs


class _Subject:
    """The embedded source model with an adapter, and a rule's lines."""

    def __init__(self, *, rank: int, num_rows: int) -> None:
        language_model, self.tokenizer = load_language_model(str(source_path()), max_length=MAX_LENGTH)
        self.model = add_adapter(language_model, rank=rank, alpha=2 * rank, target_modules=MODULES, seed=0)
        self.lines = make_lines([RULE], num_rows, seed=NAME)

    def tokens(self, lines: Dataset) -> Dataset:
        """Return lines ready for training."""
        return tokenize_examples(lines, self.tokenizer, max_length=MAX_LENGTH)


def _self_test(settings: AuditSettings) -> dict[str, Any]:
    subject = _Subject(rank=settings.gradient_rank, num_rows=16)
    rows = subject.tokens(Dataset.from_list(subject.lines))
    found = gradient_self_test(subject.model, rows, tokenizer=subject.tokenizer)
    return asdict(found) | {"passed": found.passed}


def _gradient_run(settings: AuditSettings, privacy: PrivacySettings) -> dict[str, Any]:
    subject = _Subject(rank=settings.gradient_rank, num_rows=settings.num_rows)
    recipe = FineTuningRecipe(
        num_steps=settings.gradient_steps,
        batch_size=max(settings.num_rows // 4, 1),
        learning_rate=2.5e-3,
        max_length=MAX_LENGTH,
    )
    run = audit_gradients(
        subject.model,
        subject.tokens(Dataset.from_list(subject.lines)),
        tokenizer=subject.tokenizer,
        recipe=recipe,
        privacy=privacy,
        num_canaries=settings.gradient_canaries,
        confidence=settings.confidence,
    )
    return _to_json(run)


def _text_run(settings: AuditSettings, privacy: PrivacySettings | None) -> dict[str, Any]:
    subject = _Subject(rank=settings.text_rank, num_rows=settings.num_rows + settings.text_canaries)
    lines, prompts = subject.lines[: settings.num_rows], subject.lines[settings.num_rows :]
    canaries = make_text_canaries([line["prompt"] for line in prompts], alphabet=LETTERS, num_characters=NUM_POSITIONS)
    recipe = FineTuningRecipe(
        num_steps=settings.text_steps,
        batch_size=min(64, settings.num_rows),
        learning_rate=1e-2,
        schedule="constant",
        max_length=MAX_LENGTH,
    )
    run = audit_texts(
        subject.model,
        subject.tokens(Dataset.from_list(lines)),
        subject.tokens(canaries),
        tokenizer=subject.tokenizer,
        recipe=recipe,
        privacy=privacy,
        confidence=settings.confidence,
    )
    return _to_json(run)


def _to_json(run: AuditedRun) -> dict[str, Any]:
    statement = None if run.statement is None else run.statement.to_dict()
    return {
        "canaries": run.canaries,
        "privacy": statement,
        "bound": asdict(run.bound),
        "membership": asdict(run.membership),
        "is_refuted": run.is_refuted,
    }


def _require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, settings)
    elif json.loads(path.read_text(encoding="utf-8")) != dict(settings):
        raise ConfigurationError(f"'{path.parent}' holds runs of other settings. Name another folder.")


def _report(runs: Mapping[str, Any], settings: AuditSettings) -> dict[str, Any]:
    bounds = [run["bound"]["epsilon"] for name, run in runs.items() if name.startswith("gradient_") and _is_run(name)]
    return {
        "settings": asdict(settings) | {"confidence_of_each": settings.confidence},
        "largest_bound": max(bounds),
        "mean_bound": sum(bounds) / len(bounds),
        "claimed_epsilon": settings.epsilon,
        "aims_met": {
            "the trainer passes the self-test": runs[SELF_TEST]["passed"],
            "no bound exceeds the claimed epsilon": max(bounds) < settings.epsilon and not _any_refuted(runs),
            "the run with little noise is caught": runs[LITTLE_NOISE]["bound"]["epsilon"] > settings.epsilon,
            "the run without privacy is caught": runs[TEXT_PLAIN]["bound"]["epsilon"] > settings.epsilon,
        },
        "runs": dict(runs),
        "versions": installed_versions(("gradtx-hf", "torch", "transformers", "peft", "trl", "opacus")),
    }


def _is_run(name: str) -> bool:
    return name not in (LITTLE_NOISE, SELF_TEST)


def _any_refuted(runs: Mapping[str, Any]) -> bool:
    return any(run.get("is_refuted", False) for run in runs.values())


def main() -> None:
    """Run the study from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of other libraries, between the bar's lines
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the report; finished runs are kept")
    parser.add_argument("--num-runs", type=int, default=AuditSettings.num_runs, help="private runs (default: 30)")
    arguments = parser.parse_args()
    try:
        report = study_audited_runs(arguments.output_dir, settings=AuditSettings(num_runs=arguments.num_runs))
    except GradTxError as error:
        sys.exit(f"error: {error}")
    print(run_table(report["runs"]))
    if not all(report["aims_met"].values()):
        sys.exit("error: an aim was not met; see the report.")


if __name__ == "__main__":
    main()
