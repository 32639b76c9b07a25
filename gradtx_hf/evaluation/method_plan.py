"""Which further methods an evaluation's models and data allow; the others are named with the reason. Source: ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset

from gradtx_hf.baselines.cross_lora import matched_modules
from gradtx_hf.baselines.low_rank_map import NUM_FOLDS
from gradtx_hf.baselines.vocabulary import require_same_vocabulary
from gradtx_hf.errors import GradTxError
from gradtx_hf.evaluation.arguments import ClientData, EvaluationArguments
from gradtx_hf.evaluation.controls import num_target_runs
from gradtx_hf.evaluation.method_settings import (
    CROSS_LORA,
    LOW_RANK_MAP,
    PROXIES,
    PUBLIC_WEAK_METHODS,
    SOURCE_BEST,
    STARTS,
    WEAK_METHODS,
)
from gradtx_hf.evaluation.methods import SOURCE_CLIENT
from gradtx_hf.finetuning import load_samples
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.finetuning.public_data import pooled_public_examples
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates.store import UpdateStore


SAME = {SOURCE_BEST: SOURCE_CLIENT, "proxy_tuning_same": "proxy_tuning", "distilled_same": "distilled"}
"""Method to the one that it equals where the client's own adapter is its best."""
READING_BEST = (
    *(SOURCE_BEST, CROSS_LORA, *PUBLIC_WEAK_METHODS),
    *(name for name, (teacher, _) in STARTS.items() if teacher == SOURCE_BEST),
    *(name for name, own in PROXIES.items() if own == SOURCE_BEST),
)


@dataclass(frozen=True)
class MethodPlan:
    """Methods that were asked for.

    Attributes:
        runnable: Those that can be run.
        not_run: Method to why it cannot, in one line.
    """

    runnable: tuple[str, ...]
    not_run: Mapping[str, str]

    @property
    def wants_best(self) -> bool:
        """Whether some method reads ``source_best``."""
        return any(name in READING_BEST for name in self.runnable)

    @property
    def wants_weak(self) -> bool:
        """Whether some method reads ``weak_model``."""
        return any(name in WEAK_METHODS for name in self.runnable)


def plan_methods(
    arguments: EvaluationArguments, translator: PeftTranslator, store: UpdateStore, clients: Sequence[ClientData]
) -> MethodPlan:
    """Find out which methods can be run.

    Args:
        arguments: What is asked for.
        translator: The translator, whose initial adapters name the models.
        store: The store.
        clients: The clients.
    """
    settings = arguments.further_settings
    not_run = {
        name: f"it is the same as {SAME[name]} where method_settings has no best_recipe."
        for name in arguments.methods
        if name in SAME and settings.best_recipe is None
    }
    for names, check in _checks(translator, store, clients):
        asked = [name for name in arguments.methods if name in names and name not in not_run]
        try:
            if asked:
                check()
        except GradTxError as error:
            not_run |= dict.fromkeys(asked, str(error))
    return MethodPlan(tuple(name for name in dict.fromkeys(arguments.methods) if name not in not_run), not_run)


def _checks(
    translator: PeftTranslator, store: UpdateStore, clients: Sequence[ClientData]
) -> list[tuple[tuple[str, ...], Callable[[], object]]]:
    """Return methods with what raises a GradTxError where they cannot be run."""
    inits = (translator.source_init, translator.target_init)

    def same_vocabulary() -> None:
        source, target = (load_tokenizer(init.base_model, revision=init.config.revision) for init in inits)
        require_same_vocabulary(source, target, what_for="it")

    def private_prompts() -> None:
        for client in {client.train: client for client in clients}.values():
            _require_prompts(load_samples(client.train, seed=client.seed, half="second"), f"client '{client.task}'")

    return [
        ((*PROXIES, *STARTS), same_vocabulary),
        ((*PUBLIC_WEAK_METHODS, *STARTS), lambda: _require_prompts(pooled_public_examples(store), "the public data")),
        (WEAK_METHODS, private_prompts),
        ((LOW_RANK_MAP,), lambda: _require_pairs(store, NUM_FOLDS)),
        (("refined_mean",), lambda: _require_pairs(store, 1)),
        ((CROSS_LORA,), lambda: matched_modules(*(list(init.scales) for init in inits))),
    ]


def _require_pairs(store: UpdateStore, least: int) -> None:
    if (got := num_target_runs(store)) < least:
        raise GradTxError(f"it needs target runs of {least} shadow sets, the store has {got}.")


def _require_prompts(examples: Dataset, label: str) -> None:
    if "prompt" not in examples.column_names:
        raise GradTxError(f"it needs prompts that the small model completes, {label} has none.")
