"""Adapters in, an adapter out: aggregation and the translator."""

from gradtx_hf.translation.adapter_publishing import publish_adapter_folder
from gradtx_hf.translation.aggregated import AggregatedAdapter, aggregate_adapters
from gradtx_hf.translation.aggregation import Aggregation, AggregationSettings, MergePoint, aggregate_updates
from gradtx_hf.translation.distance import LEAST_SHADOW_SETS, InputDistance
from gradtx_hf.translation.loading import SOURCE_INIT, TARGET_INIT, is_translator_folder
from gradtx_hf.translation.reading import ClientStart, ReadingOptions
from gradtx_hf.translation.records import TRAINING_FILE
from gradtx_hf.translation.translated import SourceUpdate, TranslatedAdapter
from gradtx_hf.translation.translator import PeftTranslator
from gradtx_hf.translation.translator_publishing import TRANSLATOR


__all__ = [
    "LEAST_SHADOW_SETS",
    "SOURCE_INIT",
    "TARGET_INIT",
    "TRAINING_FILE",
    "TRANSLATOR",
    "AggregatedAdapter",
    "Aggregation",
    "AggregationSettings",
    "ClientStart",
    "InputDistance",
    "MergePoint",
    "PeftTranslator",
    "ReadingOptions",
    "SourceUpdate",
    "TranslatedAdapter",
    "aggregate_adapters",
    "aggregate_updates",
    "is_translator_folder",
    "publish_adapter_folder",
]
