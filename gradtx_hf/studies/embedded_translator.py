"""Rebuild the embedded translator: curate the seen rules of split 0 in number, and train on them for long.

    python -m gradtx_hf.studies.embedded_translator --output-dir build

writes ``build/translator``, whose files are those of ``gradtx_hf/playground/assets/translator``. It names its models
by the names under which they are embedded, so that it means the same on every machine. Source: ours.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from gradtx_hf.curation import curate
from gradtx_hf.playground import SOURCE_NAME, TARGET_NAME, split_rules
from gradtx_hf.studies.quickstart import QuickstartSettings, curation_arguments, training_arguments, write_public_data
from gradtx_hf.training.processes import train_in_processes


SEED = 0
"""Of the split of the rules and of all else."""
SETTINGS = QuickstartSettings(runs_per_rule=16, num_training_steps=2500)


def build(output_dir: Path, *, settings: QuickstartSettings = SETTINGS, num_workers: int = 2) -> Path:
    """Build the translator; an interrupted build is continued.

    Args:
        output_dir: Folder of the store and the translator.
        settings: How much of everything; of the clients' settings none is used.
        num_workers: One-thread processes side by side in curation.

    Returns:
        The translator's folder.
    """
    rules = split_rules("full", seed=SEED)
    rules = replace(rules, seen=rules.seen[: settings.num_public_rules])
    write_public_data(output_dir / "data", rules, settings, seed=SEED)
    curation = curation_arguments(output_dir, rules, settings, seed=SEED, num_workers=num_workers)
    curate(replace(curation, source_model=SOURCE_NAME, target_model=TARGET_NAME))
    translator = output_dir / "translator"
    if not translator.is_dir():
        values = training_arguments(output_dir, settings, seed=SEED)
        train_in_processes(values, num_processes=settings.num_training_processes)
    return translator


def main() -> None:
    """Run the study from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--num-workers", type=int, default=2)
    arguments = parser.parse_args()
    print(build(arguments.output_dir, num_workers=arguments.num_workers))


if __name__ == "__main__":
    main()
