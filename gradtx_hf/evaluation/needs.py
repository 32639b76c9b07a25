"""What a method needs of a client, and of the provider for each client. Source: ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED


Need = Literal["nothing", "adapter", "adapter of another client", "private inputs", "private data", "at the client"]


@dataclass(frozen=True)
class MethodNeeds:
    """What a method needs of a client, and of the provider for each client.

    Attributes:
        need: What of a client the provider must have.
        trains_target: Which recipe the target is fine-tuned by, anew for every client: ``weak``, ``refinement`` or
            ``ceiling``; empty: none.
        decoding: Which models decode: ``target``, ``source``, or ``three``.
    """

    need: Need
    trains_target: Literal["", "weak", "refinement", "ceiling"] = ""
    decoding: Literal["target", "source", "three"] = "target"

    @property
    def is_of_the_translators_kind(self) -> bool:
        """Whether it does with what a translator has: no private data, no training for a client, one decoding."""
        return self.need in ("nothing", "adapter") and not self.trains_target and self.decoding == "target"


NEEDS: dict[str, MethodNeeds] = {
    SOURCE_CLIENT: MethodNeeds("at the client", decoding="source"),
    "source_best": MethodNeeds("at the client", decoding="source"),
    TARGET_UNTOUCHED: MethodNeeds("nothing"),
    "public_finetune": MethodNeeds("nothing"),
    "shadow_mean": MethodNeeds("nothing"),
    "nearest_shadow": MethodNeeds("adapter"),
    "shuffled_input": MethodNeeds("adapter of another client"),
    "ridge": MethodNeeds("adapter"),
    "low_rank_map": MethodNeeds("adapter"),
    "cross_lora": MethodNeeds("adapter"),
    "proxy_tuning": MethodNeeds("adapter", decoding="three"),
    "proxy_tuning_same": MethodNeeds("adapter", decoding="three"),
    "distilled": MethodNeeds("adapter", "refinement"),
    "distilled_same": MethodNeeds("adapter", "refinement"),
    "refined_mean": MethodNeeds("adapter", "refinement"),
    "refined_translation": MethodNeeds("adapter", "refinement"),
    "w2s_public": MethodNeeds("adapter", "weak"),
    "confidence_public": MethodNeeds("adapter", "weak"),
    "vissup_public": MethodNeeds("adapter", "weak"),
    "w2s": MethodNeeds("private inputs", "weak"),
    "confidence": MethodNeeds("private inputs", "weak"),
    "vissup": MethodNeeds("private inputs", "weak"),
    TRANSLATED: MethodNeeds("adapter"),
    CEILING: MethodNeeds("private data", "ceiling"),
}
"""Every method by name, in the order of tables where a report has no order of its own."""
