"""What a trained translator has to beat, and who else would do its job: controls and rivals, one idea a file.

Maps from source tokens to target tokens: ``ShadowMean``, ``NearestShadow``, ``RidgeMap``, ``LowRankMap``. Without a
store: ``cross_lora``, ``proxy_tuning``. On weak labels: ``w2s``, ``confidence``, ``vissup``; by distillation:
``refinement``.
"""

from gradtx_hf.baselines.low_rank_map import LowRankMap
from gradtx_hf.baselines.nearest_shadow import NearestShadow
from gradtx_hf.baselines.ridge import RidgeMap
from gradtx_hf.baselines.shadow_mean import ShadowMean


__all__ = ["LowRankMap", "NearestShadow", "RidgeMap", "ShadowMean"]
