"""Training of translators, by what the target does with generated adapters or on pairs of updates. Needs [train]."""

from importlib.util import find_spec

from gradtx_hf.errors import MissingExtraError


if find_spec("accelerate") is None:
    raise MissingExtraError('gradtx_hf.training needs accelerate. Install it with: pip install "gradtx-hf[train]"')

from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.data import PairDataset, PairSplit, split_by_shadow_set
from gradtx_hf.training.functional import FunctionalObjective, FunctionalTrainer
from gradtx_hf.training.functional_data import FunctionalDataset, ShadowTexts, TokenRows
from gradtx_hf.training.run import TranslatorArguments, start_distance_limit, train
from gradtx_hf.training.target import FunctionalTarget, load_functional_target
from gradtx_hf.training.train import Provenance, TrainedTranslator, train_translator
from gradtx_hf.training.trainer import GradTransformerTrainer


__all__ = [
    "FunctionalDataset",
    "FunctionalObjective",
    "FunctionalTarget",
    "FunctionalTrainer",
    "GradTransformerTrainer",
    "GradTransformerTrainingArguments",
    "PairDataset",
    "PairSplit",
    "Provenance",
    "ShadowTexts",
    "TokenRows",
    "TrainedTranslator",
    "TranslatorArguments",
    "load_functional_target",
    "split_by_shadow_set",
    "start_distance_limit",
    "train",
    "train_translator",
]
