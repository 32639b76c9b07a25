"""Methods that an evaluation can put beside its translator, and how those that are trained are trained.

Whoever copies the small model's answers copies those of ``source_best``: fine-tuned for the task itself, where a recipe
says how, and else the adapter that is translated. On private inputs it is ``weak_model``, fine-tuned on one half of a
client's rows, which labels the other half. Source: ours; W2S, Conf and VisSup are the paper's baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gradtx_hf.baselines.confidence import ConfidenceSettings
from gradtx_hf.baselines.vissup import vissup_trainer
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.evaluation.methods import SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.finetuning import FineTuningRecipe


SOURCE_BEST = "source_best"
WEAK_MODEL = "weak_model"
"""The source fine-tuned on half of a client's rows, which labels the other half."""
LOW_RANK_MAP, CROSS_LORA = "low_rank_map", "cross_lora"
WEAK_METHODS = ("w2s", "confidence", "vissup")
PUBLIC = "_public"
"""The end of a name: weak labels on public inputs in place of private ones."""
PUBLIC_WEAK_METHODS = tuple(f"{name}{PUBLIC}" for name in WEAK_METHODS)
STARTS = {
    "distilled_same": (SOURCE_CLIENT, TARGET_UNTOUCHED),
    "distilled": (SOURCE_BEST, TARGET_UNTOUCHED),
    "refined_mean": (SOURCE_BEST, "shadow_mean"),
    "refined_translation": (SOURCE_BEST, TRANSLATED),
}
"""Method by distillation to the source adapter that teaches and the target adapter that it starts from."""
PROXIES = {"proxy_tuning": SOURCE_BEST, "proxy_tuning_same": SOURCE_CLIENT}
"""Method without an adapter, which decodes with three models, to the source adapter that it decodes with."""
TRAINED = (*STARTS, *PUBLIC_WEAK_METHODS, *WEAK_METHODS)
"""Methods that fine-tune the target anew for every client."""
FURTHER_METHODS = (SOURCE_BEST, LOW_RANK_MAP, CROSS_LORA, *PROXIES, *TRAINED)
"""What an evaluation can be asked for, in the order of tables."""
RECIPES = ("best_recipe", "weak_recipe", "refinement_recipe")


@dataclass(frozen=True)
class MethodSettings:
    """How further methods are trained.

    Attributes:
        best_recipe: Recipe values of ``source_best``; None: the client's own adapter takes its place.
        weak_recipe: Recipe values of the target on weak labels; None: as the ceilings.
        refinement_recipe: Recipe values of distillation; None: as the ceilings.
        num_public_prompts: Public inputs that are labelled, and distilled on; all where there are fewer.
        max_alpha: Of Conf.
        temperature: Of VisSup.
        basis_rank: Of Cross-LoRA's bases; None: as many as the weights have.
    """

    best_recipe: Mapping[str, Any] | None = None
    weak_recipe: Mapping[str, Any] | None = None
    refinement_recipe: Mapping[str, Any] | None = None
    num_public_prompts: int = 1024
    max_alpha: float = 0.5
    temperature: float = 1.0
    basis_rank: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If one cannot be used.
        """
        for name in RECIPES:
            if getattr(self, name) is not None:
                FineTuningRecipe.from_dict(getattr(self, name))
        for name, least in (("num_public_prompts", 1), ("basis_rank", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigurationError(f"got {name}={value!r}, expected a whole number of at least {least}.")
        ConfidenceSettings(max_alpha=self.max_alpha)
        vissup_trainer(self.temperature)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodSettings:
        """Build settings from configuration values.

        Raises:
            ConfigurationError: If a key is unknown, or a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigurationError(f"got unknown method setting '{unknown[0]}', expected any of {', '.join(known)}.")
        return cls(**values)

    def recipe(self, name: str, default: FineTuningRecipe) -> FineTuningRecipe:
        """Return one of ``RECIPES``, or another where it is None."""
        values = getattr(self, name)
        return default if values is None else FineTuningRecipe.from_dict(values)
