"""Fine-tuning of adapters: data to tokens, one TRL trainer, generation, live adapters. Needs the extra [train]."""

from importlib.util import find_spec

from gradtx_hf.errors import MissingExtraError


if find_spec("trl") is None or find_spec("datasets") is None:
    raise MissingExtraError('gradtx_hf.finetuning needs trl. Install it with: pip install "gradtx-hf[train]"')

from gradtx_hf.finetuning.adapter import adapter_parameters, adapter_state, add_adapter, reset_adapter
from gradtx_hf.finetuning.data import DataSource, load_examples
from gradtx_hf.finetuning.encoding import encode_prompts, tokenize_examples
from gradtx_hf.finetuning.generate import bits_per_character, generate_completions
from gradtx_hf.finetuning.language_model import load_language_model
from gradtx_hf.finetuning.packed import PackedResult, PackedRun, fine_tune_pack
from gradtx_hf.finetuning.parts import fine_tune_parts
from gradtx_hf.finetuning.privacy import PrivacySettings, PrivacyStatement
from gradtx_hf.finetuning.recipe import FineTuningRecipe
from gradtx_hf.finetuning.samples import Sample, load_samples
from gradtx_hf.finetuning.trainer import (
    AdapterSFTTrainer,
    ConvergenceCallback,
    FineTuningResult,
    fine_tune,
    has_converged,
)


__all__ = [
    "AdapterSFTTrainer",
    "ConvergenceCallback",
    "DataSource",
    "FineTuningRecipe",
    "FineTuningResult",
    "PackedResult",
    "PackedRun",
    "PrivacySettings",
    "PrivacyStatement",
    "Sample",
    "adapter_parameters",
    "adapter_state",
    "add_adapter",
    "bits_per_character",
    "encode_prompts",
    "fine_tune",
    "fine_tune_pack",
    "fine_tune_parts",
    "generate_completions",
    "has_converged",
    "load_examples",
    "load_language_model",
    "load_samples",
    "reset_adapter",
    "tokenize_examples",
]
