"""Translators without a Transformer, which a trained one has to beat: source tokens in, target tokens out."""

from gradtx_hf.baselines.nearest_shadow import NearestShadow
from gradtx_hf.baselines.ridge import RidgeMap
from gradtx_hf.baselines.shadow_mean import ShadowMean


__all__ = ["NearestShadow", "RidgeMap", "ShadowMean"]
