"""The whole story on the embedded pair: public data to a report, in minutes on two cores.

Provider: lines of 108 edit rules → shadow sets → source adapters in number, target adapters few → translator. Clients:
lines of their own rule → an adapter of the source → a translated adapter of the target, beside every control; half of
the clients have rules that no shadow set had. The objective is functional: what the target does with a generated
adapter, on the shadow set's own lines. Source: ours.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import OutputExistsError
from gradtx_hf.evaluation import Report, save_report
from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.run import client_folder_name, evaluate
from gradtx_hf.evaluation.seconds import read_seconds, timed
from gradtx_hf.finetuning.worker_processes import begin_imports
from gradtx_hf.output import require_new_folder, write_json, write_text
from gradtx_hf.playground import Rule, RuleSplit, make_lines, source_path, split_rules, target_path
from gradtx_hf.playground.recipes import source_recipe, target_recipe
from gradtx_hf.training.processes import train_in_processes


CONFIG_FILE = "quickstart.json"
BATCH_SIZE = 32
"""Updates of a training step, of all processes together."""


@dataclass(frozen=True)
class QuickstartSettings:
    """Every number of the quickstart but the seed; chosen on development rules, which no quickstart scores.

    Attributes:
        num_public_rules: Seen rules that shadow sets are made of; None: all 108.
        runs_per_rule: Shadow sets of each, with one source run each.
        num_target_runs: Shadow sets with a target run as well, for the controls that rest on some.
        samples_per_set: Lines of a shadow set.
        num_snapshots: Updates kept of a run: its last optimizer steps.
        source_recipe: How source adapters are fine-tuned, the shadows' and the clients' alike.
        target_recipe: How target adapters are fine-tuned, the shadows' and the ceilings' alike.
        num_public_finetune_steps: Steps of the public fine-tune, a control.
        num_training_steps: Steps of the translator's training.
        num_training_processes: Processes that train it side by side. Unlike ``num_workers`` it changes the numbers.
        num_seen_scored: Seen rules that clients have.
        num_unseen_scored: Unseen rules that clients have.
        client_seeds: One client per rule and seed.
        num_private_lines: Lines of a client's private data.
        num_parts: Parts that a client divides them into, with a run on each; see ``fine_tune_parts``.
        num_test_lines: Held-out lines of a client.
        num_runs_at_once: Clients' and ceilings' runs that are fine-tuned at once.
    """

    num_public_rules: int | None = None
    runs_per_rule: int = 10
    num_target_runs: int = 8
    samples_per_set: int = 256
    num_snapshots: int = 4
    source_recipe: Mapping[str, Any] = field(default_factory=source_recipe)
    target_recipe: Mapping[str, Any] = field(default_factory=target_recipe)
    num_public_finetune_steps: int = 480
    num_training_steps: int = 1250
    num_training_processes: int = 2
    num_seen_scored: int = 10
    num_unseen_scored: int = 10
    client_seeds: tuple[int, ...] = (1,)
    num_private_lines: int = 2048
    num_parts: int = 4
    num_test_lines: int = 100
    num_runs_at_once: int = 16


def run_quickstart(
    output_dir: str | Path,
    *,
    seed: int = 0,
    num_workers: int = 2,
    settings: QuickstartSettings | None = None,
    command: str = "",
) -> Report:
    """Run the whole story.

    Writes ``report.{json,md,png}``, ``translator/``, ``client_adapter/`` and ``translated_adapter/``, the last two of
    the first seen client.

    Args:
        output_dir: The folder; one that holds the same quickstart, unfinished, is continued.
        seed: Seed of everything: which rules are seen, the data, the runs, the translator.
        num_workers: One-thread processes side by side; the numbers do not depend on it.
        settings: All other numbers; by default those of the command.
        command: The command line, for the report.

    Raises:
        OutputExistsError: If the folder holds something else.
    """
    settings = settings or QuickstartSettings()
    begin_imports()
    folder = _claim(Path(output_dir), settings, seed=seed)
    rules = split_rules("full", seed=seed)
    rules = replace(rules, seen=rules.seen[: settings.num_public_rules])
    write_public_data(folder / "data", rules, settings, seed=seed)
    clients = _write_clients(folder / "data", rules, settings, seed=seed)
    with timed(folder, "curation"):
        store = curate(curation_arguments(folder, rules, settings, seed=seed, num_workers=num_workers))
    if not (folder / "translator").is_dir():
        with timed(folder, "training"):
            train_in_processes(
                training_arguments(folder, settings, seed=seed), num_processes=settings.num_training_processes
            )
    evaluated = evaluate(
        EvaluationArguments(
            translator=str(folder / "translator"),
            store=str(store.folder),
            output_dir=str(folder / "evaluation"),
            clients=clients,
            source_recipe=dict(settings.source_recipe) | {"num_parts": settings.num_parts},
            public_recipe=dict(settings.target_recipe) | {"num_steps": settings.num_public_finetune_steps},
            max_new_tokens=8,
            batch_size=settings.num_test_lines,
            num_workers=num_workers,
            pack=settings.num_runs_at_once,
        )
    )
    seconds = read_seconds(folder) | dict(evaluated.seconds)
    report = replace(
        evaluated,
        seconds={name: round(value, 1) for name, value in seconds.items()},
        config={"preset": "full", "seed": seed, "settings": asdict(settings)} | dict(evaluated.config),
        command=command,
    )
    _copy_first_seen_client(folder, clients)
    save_report(report, folder)
    return report


def _claim(folder: Path, settings: QuickstartSettings, *, seed: int) -> Path:
    path = folder / CONFIG_FILE
    values = json.loads(json.dumps({"seed": seed} | asdict(settings)))
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != values:
            raise OutputExistsError(f"'{folder}' holds a quickstart of another seed. Name a new folder, or remove it.")
        return folder
    require_new_folder(folder).mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return folder


def write_public_data(folder: Path, rules: RuleSplit, settings: QuickstartSettings, *, seed: int) -> None:
    """Write one public corpus for each seen rule."""
    folder.mkdir(parents=True, exist_ok=True)
    for rule in rules.seen:
        _write_lines(folder / f"public-{rule.name}.jsonl", rule, 4 * settings.samples_per_set, f"public {seed}")


def _write_clients(folder: Path, rules: RuleSplit, settings: QuickstartSettings, *, seed: int) -> list[dict[str, Any]]:
    """Write each client's private lines; return the clients for the evaluation."""
    chosen = random.Random(seed).sample(list(rules.seen), settings.num_seen_scored)
    chosen += random.Random(seed).sample(list(rules.report), settings.num_unseen_scored)
    clients = []
    for rule in chosen:
        for client_seed in settings.client_seeds:
            path = folder / f"private-{rule.name}-{client_seed}.jsonl"
            num_lines = settings.num_private_lines + settings.num_test_lines
            _write_lines(path, rule, num_lines, f"private {client_seed} {seed}")
            clients.append(
                {
                    "task": rule.name,
                    "seen": rule in rules.seen,
                    "seed": client_seed,
                    "train": {"path": str(path), "split": f"train[:{settings.num_private_lines}]"},
                    "test": {"path": str(path), "split": f"train[{settings.num_private_lines}:]"},
                }
            )
    return clients


def _write_lines(path: Path, rule: Rule, num_lines: int, seed: str) -> None:
    rows = make_lines([rule], num_lines, seed=f"{seed} {rule.name}")
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def curation_arguments(
    folder: Path, rules: RuleSplit, settings: QuickstartSettings, *, seed: int, num_workers: int
) -> CurationArguments:
    """Return the curation of the public data in a quickstart's folder."""
    return CurationArguments(
        source_model=str(source_path()),
        target_model=str(target_path()),
        output_dir=str(folder / "store"),
        corpora=[
            {"path": str(folder / "data" / f"public-{rule.name}.jsonl"), "label": rule.name} for rule in rules.seen
        ],
        mixture="single",
        num_shadow_sets=len(rules.seen) * settings.runs_per_rule,
        num_target_runs=settings.num_target_runs,
        samples_per_set=settings.samples_per_set,
        num_snapshots=settings.num_snapshots,
        rank=2,
        alpha=16,
        dropout=0.0,
        source_recipe=dict(settings.source_recipe),
        target_recipe=dict(settings.target_recipe),
        seed=seed,
        num_workers=num_workers,
    )


def training_arguments(folder: Path, settings: QuickstartSettings, *, seed: int) -> dict[str, Any]:
    """Return the training on the store in a quickstart's folder, as fields of ``TranslatorArguments``."""
    num_steps = settings.num_training_steps
    return {
        "store": str(folder / "store"),
        "output_dir": str(folder / "translator"),
        "max_steps": num_steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": num_steps // 20,
        "decoding": "parallel",
        "per_device_train_batch_size": BATCH_SIZE // settings.num_training_processes,
        "num_target_runs": settings.num_target_runs,
        "eval_strategy": "steps",
        "eval_steps": max(1, num_steps // 4),
        "save_strategy": "steps",
        "save_steps": max(1, num_steps // 4),
        "seed": seed,
        "use_cpu": True,
    }


def _copy_first_seen_client(folder: Path, clients: list[dict[str, Any]]) -> None:
    """Copy the first seen client's two adapters to where a visitor looks for them."""
    index = next(i for i, client in enumerate(clients) if client["seen"])
    home = folder / "evaluation" / "clients" / client_folder_name(index, ClientData.from_dict(clients[index]))
    for name, copied in (("source", "client_adapter"), ("translated", "translated_adapter")):
        shutil.rmtree(folder / copied, ignore_errors=True)
        shutil.copytree(home / name, folder / copied)
