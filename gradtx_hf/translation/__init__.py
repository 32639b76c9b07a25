"""Adapters in, an adapter out: aggregation and the translator."""

from gradtx_hf.translation.aggregation import Aggregation, aggregate_updates
from gradtx_hf.translation.distance import LEAST_SHADOW_SETS, InputDistance
from gradtx_hf.translation.loading import SOURCE_INIT, TARGET_INIT, is_translator_folder
from gradtx_hf.translation.translated import SourceUpdate, TranslatedAdapter
from gradtx_hf.translation.translator import PeftTranslator


__all__ = [
    "LEAST_SHADOW_SETS",
    "SOURCE_INIT",
    "TARGET_INIT",
    "Aggregation",
    "InputDistance",
    "PeftTranslator",
    "SourceUpdate",
    "TranslatedAdapter",
    "aggregate_updates",
    "is_translator_folder",
]
