"""Curation: shadow sets of public data, fine-tuned on both sides, into a store of update pairs (paper Sec. 3)."""

from gradtx_hf.curation.arguments import CurationArguments
from gradtx_hf.curation.pooled import pooled_public_examples
from gradtx_hf.curation.recorder import SnapshotRecorder
from gradtx_hf.curation.run import curate
from gradtx_hf.curation.shadow_sets import Corpus, mixture_shares, plan_shadow_sets, run_seed


__all__ = [
    "Corpus",
    "CurationArguments",
    "SnapshotRecorder",
    "curate",
    "mixture_shares",
    "plan_shadow_sets",
    "pooled_public_examples",
    "run_seed",
]
