"""The methods of a report: their names, labels, order, and what it means when one does as well as the translator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gradtx_hf.hub.results import LORA_OF_RANK


Kind = Literal["source", "untouched", "control", "rival", "variant", "translated", "ceiling"]

SOURCE_CLIENT = "source_client"
TARGET_UNTOUCHED = "target_untouched"
TRANSLATED = "translated"
CEILING = "ceiling"


@dataclass(frozen=True)
class Method:
    """How a method is shown.

    Attributes:
        label: Its name in tables and plots.
        short: Its name as a column's head and within a sentence.
        kind: ``control`` where a tie shows that the client's adapter was not needed; ``rival`` where it shows only
            that another method does as well; ``variant`` is the translation itself in another form, no rival of it.
    """

    label: str
    short: str
    kind: Kind


METHODS: dict[str, Method] = {
    SOURCE_CLIENT: Method("Source client (small model, fine-tuned)", "source client", "source"),
    TARGET_UNTOUCHED: Method("Target, untouched", "target untouched", "untouched"),
    "public_finetune": Method("Target, public fine-tune (no client)", "public fine-tune", "control"),
    "shadow_mean": Method("Mean shadow update", "mean shadow", "control"),
    "nearest_shadow": Method("Nearest shadow", "nearest shadow", "control"),
    "shuffled_input": Method("Shuffled input (another client's adapter)", "shuffled input", "control"),
    "ridge": Method("Ridge on update tokens", "ridge", "rival"),
    TRANSLATED: Method("Translated adapter", "translated adapter", "translated"),
    CEILING: Method("Ceiling (target fine-tuned on the private data)", "ceiling", "ceiling"),
}
"""Method name, as in report.json, to how it is shown; in the order of tables and plots."""

STORE_CONTROLS = ("shadow_mean", "nearest_shadow", "ridge")
"""The controls that are fitted to pairs of the store; ridge needs pairs of two shadow sets, the others of one."""

RIVALS: dict[str, Method] = {
    "functional_linear": Method("Functional linear map alone", "functional linear map", "rival"),
    "paper_objective": Method("Paper's objective (parameter-space MSE)", "paper's objective", "rival"),
    "source_best": Method("Source client, fine-tuned for itself", "source client fine-tuned for itself", "source"),
    "low_rank_map": Method("Low-rank linear map on update tokens", "low-rank map", "rival"),
    "cross_lora": Method("Cross-LoRA (SVD bases of the base weights)", "Cross-LoRA", "rival"),
    "proxy_tuning": Method("Proxy tuning (logits of three models)", "proxy tuning", "rival"),
    "proxy_tuning_same": Method(
        "Proxy tuning, with the adapter that is translated", "proxy tuning, same adapter", "rival"
    ),
    "distilled": Method("Distilled on public text", "distillation", "rival"),
    "distilled_same": Method("Distilled, from the adapter that is translated", "distillation, same adapter", "rival"),
    "refined_mean": Method("Mean shadow update, refined by distillation", "refined mean shadow", "rival"),
    "refined_translation": Method("Translated adapter, refined by distillation", "refined translation", "rival"),
    "w2s_public": Method("W2S on public inputs", "W2S on public inputs", "rival"),
    "confidence_public": Method("Conf on public inputs", "Conf on public inputs", "rival"),
    "vissup_public": Method("VisSup on public inputs", "VisSup on public inputs", "rival"),
    "w2s": Method("W2S on private inputs", "W2S on private inputs", "rival"),
    "confidence": Method("Conf on private inputs", "Conf on private inputs", "rival"),
    "vissup": Method("VisSup on private inputs", "VisSup on private inputs", "rival"),
}
"""Further methods that have a label of their own; any other name of a rival is its label."""


def method_of(name: str) -> Method:
    """Return how a method is shown; one that is not in ``METHODS`` or ``RIVALS`` is a rival under its own name."""
    if name.startswith(LORA_OF_RANK):
        written = f"translation as LoRA of rank {name.removeprefix(LORA_OF_RANK)}"
        return Method(f"The {written}", written, "variant")
    words = name.replace("_", " ")
    return METHODS.get(name) or RIVALS.get(name) or Method(words[:1].upper() + words[1:], words, "rival")


def ordered_methods(names: Iterable[str]) -> list[str]:
    """Return names once each in the order of ``METHODS``, others as they came, before the translated adapter."""
    given = list(dict.fromkeys(names))
    known = [name for name in METHODS if name in given]
    others = [name for name in given if name not in METHODS]
    last = [name for name in known if name in (TRANSLATED, CEILING)]
    return [name for name in known if name not in last] + others + last
