"""One tiny story for the tests of commands, training and evaluation: data, models, store, translator, client."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradtx_hf.client import fine_tune_client
from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.finetuning import DataSource, FineTuningRecipe
from gradtx_hf.playground.world import Rule
from gradtx_hf.training import TranslatorArguments, train
from tests.curation.world import RULES, save_model, write_lines


RECIPE: dict[str, Any] = {"num_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "max_length": 32}
UNSEEN = Rule("rotate_1", 2)
TRAINING: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "validation_share": 0.3,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "use_cpu": True,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
}


@dataclass(frozen=True)
class Story:
    """Paths of everything.

    Attributes:
        folder: The folder of it all.
        curation: The arguments that the store was curated with.
        store: A store of three shadow sets.
        translator: A translator trained on it.
        client: A client's adapter.
    """

    folder: Path
    curation: dict[str, Any]
    store: Path
    translator: Path
    client: Path

    def data(self, rule: Rule) -> str:
        """Return the file of a rule's lines: prompt and completion."""
        return str(self.folder / f"{rule.name}.jsonl")

    def text(self, rule: Rule) -> str:
        """Return the file of a rule's lines as plain text."""
        return str(self.folder / f"{rule.name}.txt")


@functools.cache
def story() -> Story:
    """Make the story once for all tests of this process."""
    folder = Path(tempfile.mkdtemp(prefix="gradtx-story-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for rule in (*RULES, UNSEEN):
        lines = write_lines(folder / f"{rule.name}.jsonl", rule, 24).read_text().splitlines()
        texts = [row["prompt"] + row["completion"] for row in map(json.loads, lines)]
        (folder / f"{rule.name}.txt").write_text("\n".join(texts))
    curation = {
        "source_model": str(save_model(folder / "source", hidden_size=8, num_layers=2, seed=0)),
        "target_model": str(save_model(folder / "target", hidden_size=16, num_layers=3, seed=1)),
        "corpora": [{"path": str(folder / f"{rule.name}.jsonl"), "label": rule.name} for rule in RULES],
        "num_shadow_sets": 3,
        "num_target_runs": None,
        "samples_per_set": 16,
        "num_snapshots": 2,
        "source_recipe": RECIPE,
        "target_recipe": RECIPE,
    }
    made = Story(folder, curation, folder / "store", folder / "translator", folder / "client")
    curate(CurationArguments(**curation, output_dir=str(made.store)))
    train(TranslatorArguments(**TRAINING, store=str(made.store), output_dir=str(made.translator), disable_tqdm=True))
    fine_tune_client(
        made.translator / "source_init",
        DataSource(path=made.data(RULES[0])),
        recipe=FineTuningRecipe.from_dict(RECIPE),
        output_dir=made.client,
    )
    return made


def listing(folder: Path) -> dict[str, int]:
    """Return every file and folder below a folder, hidden ones too, with the time of its last change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
