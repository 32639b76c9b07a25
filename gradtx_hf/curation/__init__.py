"""Curation: shadow sets of public data, fine-tuned on both sides, into a store of update pairs (paper Sec. 3)."""

from gradtx_hf.curation.arguments import CurationArguments
from gradtx_hf.curation.recorder import SnapshotRecorder
from gradtx_hf.curation.run import curate
from gradtx_hf.curation.shadow_sets import Corpus, choose_target_sets, mixture_shares, plan_shadow_sets, run_seed
from gradtx_hf.finetuning.public_data import pooled_public_examples


__all__ = [
    "Corpus",
    "CurationArguments",
    "SnapshotRecorder",
    "choose_target_sets",
    "curate",
    "mixture_shares",
    "plan_shadow_sets",
    "pooled_public_examples",
    "run_seed",
]
