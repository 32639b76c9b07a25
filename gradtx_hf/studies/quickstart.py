"""The whole story on the embedded pair: public data to a report, in minutes on two cores.

Provider: lines of 27 edit rules → shadow sets → fine-tuned pairs → translator. Clients: lines of their own rule → an
adapter of the source → a translated adapter of the target, beside every control. Source: ours; the objective is the
paper's on standardised tokens.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.errors import OutputExistsError
from gradtx_hf.evaluation import Report, save_report
from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.run import client_folder_name, evaluate
from gradtx_hf.output import write_json, write_text
from gradtx_hf.playground import Rule, RuleSplit, make_lines, source_path, split_rules, target_path
from gradtx_hf.training import TranslatorArguments, train


logger = logging.getLogger(__name__)

CONFIG_FILE = "quickstart.json"
CURATION: dict[str, Any] = {
    "num_shadow_sets": 108,
    "samples_per_set": 256,
    "num_snapshots": 8,
    "rank": 2,
    "alpha": 16,
    "dropout": 0.0,
    # The long warm-up makes runs of one task end near each other, so that there is something to learn: without it
    # the first steps decide by chance which of many equally good adapters a run ends at.
    "source_recipe": {
        "num_steps": 60,
        "warmup_steps": 20,
        "batch_size": 8,
        "learning_rate": 8e-3,
        "max_length": 32,
    },
    "target_recipe": {
        "num_steps": 120,
        "warmup_steps": 60,
        "batch_size": 16,
        "learning_rate": 5e-3,
        "max_length": 32,
    },
}
TRAINING: dict[str, Any] = {
    "max_steps": 1000,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "input_noise": 1.0,
    "eval_strategy": "steps",
    "eval_steps": 250,
    "save_strategy": "steps",
    "save_steps": 250,
}
PUBLIC_FINETUNE_STEPS = 480
CLIENT_SEEDS = (1, 2, 3)
NUM_SEEN_SCORED, NUM_UNSEEN_SCORED = 6, 4
NUM_PUBLIC_LINES, NUM_PRIVATE_LINES, NUM_TEST_LINES = 1024, 512, 100


def run_quickstart(output_dir: str | Path, *, seed: int = 0, num_workers: int = 2, command: str = "") -> Report:
    """Run the whole story.

    Writes ``report.{json,md,png}``, ``translator/``, ``client_adapter/`` and ``translated_adapter/``, the last two of
    the first seen client.

    Args:
        output_dir: The folder; one that holds the same quickstart, unfinished, is continued.
        seed: Seed of everything: which rules are seen, the data, the runs, the translator.
        num_workers: One-thread processes side by side.
        command: The command line, for the report.

    Raises:
        OutputExistsError: If the folder holds something else.
    """
    folder = _claim(Path(output_dir), seed=seed)
    seconds: dict[str, float] = {}
    rules = split_rules("small", seed=seed)
    begin = time.perf_counter()
    clients = _write_data(folder / "data", rules, seed=seed)
    store = curate(_curation(folder, rules, seed=seed, num_workers=num_workers))
    seconds["curation"], begin = time.perf_counter() - begin, time.perf_counter()
    if not (folder / "translator").is_dir():
        train(
            TranslatorArguments(
                store=str(store.folder), output_dir=str(folder / "translator"), seed=seed, use_cpu=True, **TRAINING
            )
        )
    seconds["training"] = time.perf_counter() - begin
    report = evaluate(
        EvaluationArguments(
            translator=str(folder / "translator"),
            store=str(store.folder),
            output_dir=str(folder / "evaluation"),
            clients=clients,
            public_recipe=CURATION["target_recipe"] | {"num_steps": PUBLIC_FINETUNE_STEPS},
            max_new_tokens=8,
            batch_size=NUM_TEST_LINES,
            num_workers=num_workers,
        )
    )
    report = replace(
        report,
        seconds={name: round(value, 1) for name, value in (seconds | dict(report.seconds)).items()},
        config={"preset": "small", "seed": seed, "curation": CURATION, "training": TRAINING} | dict(report.config),
        command=command,
    )
    _copy_first_seen_client(folder, clients)
    save_report(report, folder)
    return report


def _claim(folder: Path, *, seed: int) -> Path:
    path, values = folder / CONFIG_FILE, {"quickstart": 1, "seed": seed}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == values:
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(f"output folder '{folder}' exists and is not empty. Name a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return folder


def _write_data(folder: Path, rules: RuleSplit, *, seed: int) -> list[dict[str, Any]]:
    """Write the public corpora and each client's private lines; return the clients for the evaluation."""
    folder.mkdir(exist_ok=True)
    for rule in rules.seen:
        _write_lines(folder / f"public-{rule.name}.jsonl", rule, NUM_PUBLIC_LINES, f"public {rule.name} {seed}")
    chosen = random.Random(seed).sample(list(rules.seen), NUM_SEEN_SCORED)
    chosen += random.Random(seed).sample(list(rules.report), NUM_UNSEEN_SCORED)
    clients = []
    for rule in chosen:
        for client_seed in CLIENT_SEEDS:
            path = folder / f"private-{rule.name}-{client_seed}.jsonl"
            num_lines = NUM_PRIVATE_LINES + NUM_TEST_LINES
            _write_lines(path, rule, num_lines, f"private {rule.name} {client_seed} {seed}")
            clients.append(
                {
                    "task": rule.name,
                    "seen": rule in rules.seen,
                    "seed": client_seed,
                    "train": {"path": str(path), "split": f"train[:{NUM_PRIVATE_LINES}]"},
                    "test": {"path": str(path), "split": f"train[{NUM_PRIVATE_LINES}:]"},
                }
            )
    return clients


def _write_lines(path: Path, rule: Rule, num_lines: int, seed: str) -> None:
    rows = make_lines([rule], num_lines, seed=seed)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _curation(folder: Path, rules: RuleSplit, *, seed: int, num_workers: int) -> CurationArguments:
    return CurationArguments(
        source_model=str(source_path()),
        target_model=str(target_path()),
        output_dir=str(folder / "store"),
        corpora=[
            {"path": str(folder / "data" / f"public-{rule.name}.jsonl"), "label": rule.name} for rule in rules.seen
        ],
        mixture="single",
        seed=seed,
        num_workers=num_workers,
        **CURATION,
    )


def _copy_first_seen_client(folder: Path, clients: list[dict[str, Any]]) -> None:
    """Copy the first seen client's two adapters to where a visitor looks for them."""
    index = next(i for i, client in enumerate(clients) if client["seen"])
    home = folder / "evaluation" / "clients" / client_folder_name(index, ClientData.from_dict(clients[index]))
    for name, copied in (("source", "client_adapter"), ("translated", "translated_adapter")):
        shutil.rmtree(folder / copied, ignore_errors=True)
        shutil.copytree(home / name, folder / copied)
