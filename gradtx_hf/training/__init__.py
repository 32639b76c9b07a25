"""Training of translators on pairs of source and target updates. Needs the extra [train]."""

from importlib.util import find_spec

from gradtx_hf.errors import MissingExtraError


if find_spec("accelerate") is None:
    raise MissingExtraError('gradtx_hf.training needs accelerate. Install it with: pip install "gradtx-hf[train]"')

from gradtx_hf.training.arguments import GradTransformerTrainingArguments
from gradtx_hf.training.data import PairDataset, PairSplit, split_by_shadow_set
from gradtx_hf.training.run import TranslatorArguments, start_distance_limit, train
from gradtx_hf.training.train import TrainedTranslator, train_translator
from gradtx_hf.training.trainer import GradTransformerTrainer


__all__ = [
    "GradTransformerTrainer",
    "GradTransformerTrainingArguments",
    "PairDataset",
    "PairSplit",
    "TrainedTranslator",
    "TranslatorArguments",
    "split_by_shadow_set",
    "start_distance_limit",
    "train",
    "train_translator",
]
