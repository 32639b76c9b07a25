"""Adapters in, an adapter out: aggregation and the translator."""

from gradtx_hf.translation.aggregation import Aggregation, aggregate_updates
from gradtx_hf.translation.loading import SOURCE_INIT, TARGET_INIT, is_translator_folder
from gradtx_hf.translation.translated import SourceUpdate, TranslatedAdapter
from gradtx_hf.translation.translator import PeftTranslator


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
