"""Adapters in, an adapter out: aggregation and the translator."""

from gradtx_hf.translation.aggregation import Aggregation, aggregate_updates
from gradtx_hf.translation.translator import (
    SOURCE_INIT,
    TARGET_INIT,
    PeftTranslator,
    SourceUpdate,
    TranslatedAdapter,
    is_translator_folder,
)


__all__ = [
    "SOURCE_INIT",
    "TARGET_INIT",
    "Aggregation",
    "PeftTranslator",
    "SourceUpdate",
    "TranslatedAdapter",
    "aggregate_updates",
    "is_translator_folder",
]
