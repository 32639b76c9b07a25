"""The playground's models by name: the two that are embedded, and others that a study pretrains in its own folder.

Source: ours; the recipe is that of the embedded ones, with another width and depth, architecture or tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradtx_hf.finetuning.pool import one_thread
from gradtx_hf.output import new_folder, write_json
from gradtx_hf.playground import source_path, target_path
from gradtx_hf.studies.pretrain_playground import RECIPES, Recipe, Stage, build_tokenizer, pretrain


EMBEDDED = {"source": source_path, "target": target_path}
SOURCE_STAGES, TARGET_STAGES = RECIPES["source"].stages, RECIPES["target"].stages
PRETRAINED: dict[str, Recipe] = {
    "source_small": Recipe(
        hidden_size=32, intermediate_size=88, num_layers=3, initializer_range=0.14, stages=SOURCE_STAGES
    ),
    "source_large": Recipe(
        hidden_size=64, intermediate_size=176, num_layers=3, initializer_range=0.1, stages=SOURCE_STAGES
    ),
    "target_large": Recipe(
        hidden_size=128, intermediate_size=344, num_layers=5, initializer_range=0.07, stages=TARGET_STAGES
    ),
    "source_gpt2": replace(RECIPES["source"], architecture="gpt2"),
    "source_pairs": replace(RECIPES["source"], letters_per_token=2),
    "target_qwen2": replace(RECIPES["target"], architecture="qwen2"),
    "target_pairs": replace(RECIPES["target"], letters_per_token=2),
}
OF_ITS_OWN_KIND = tuple(
    name for name, recipe in PRETRAINED.items() if recipe.architecture != "llama" or recipe.letters_per_token != 1
)
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "stages": (Stage(20, 4, 1e-3, hide_together=True),),
}
PRETRAINED |= {
    f"{name}_tiny": replace(recipe, **TINY)
    for name, recipe in {**RECIPES, **{name: PRETRAINED[name] for name in OF_ITS_OWN_KIND}}.items()
}
"""For dry runs: a source, a target, and those of an architecture or a tokenizer of their own, hardly trained."""
MODELS = (*EMBEDDED, *PRETRAINED)
PRETRAINING_FILE = "pretraining.json"
PRETRAINING_SEED = 0


@dataclass(frozen=True)
class Pretraining:
    """A model to pretrain, and the folder that it goes to."""

    name: str
    folder: Path


def model_folder(name: str, study_folder: Path) -> Path:
    """Return where a model is, or will be once the study has pretrained it.

    Args:
        name: One of ``MODELS``.
        study_folder: The study's folder.
    """
    return EMBEDDED[name]() if name in EMBEDDED else study_folder / "models" / name


def pretrain_model(job: Pretraining) -> None:
    """Pretrain a model of ``PRETRAINED``, and write it with what it can do."""
    with one_thread(), new_folder(job.folder) as folder:
        model, exact_match = pretrain(job.name, seed=PRETRAINING_SEED, recipes=PRETRAINED)
        model.save_pretrained(folder)
        build_tokenizer(PRETRAINED[job.name].letters_per_token).save_pretrained(folder)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        write_json(
            folder / PRETRAINING_FILE,
            {"model": job.name, "num_parameters": num_parameters, "known_tag_exact_match": exact_match},
        )
