"""The low-rank map: a planted one is recovered, and at full rank it is ridge regression."""

from __future__ import annotations

import pytest
import torch

from gradtx_hf.baselines import LowRankMap, RidgeMap
from gradtx_hf.baselines.low_rank_map import _fit
from gradtx_hf.baselines.ridge import gram, standardised
from gradtx_hf.baselines.shadows import shadow_statistics
from gradtx_hf.errors import StoreError
from tests.baselines.test_baselines import SOURCE, TARGET, MemoryStore, random_tokens


def low_rank_world(*, rank: int, num_shadow_sets: int, noise: float) -> MemoryStore:
    """Updates of twelve hidden numbers, of which the target's updates show a few."""
    generator = torch.Generator().manual_seed(3)
    source = torch.stack([random_tokens(SOURCE, generator) for _ in range(12)])
    target = torch.stack([random_tokens(TARGET, generator) for _ in range(rank)])
    made = MemoryStore()
    for k in range(num_shadow_sets):
        hidden = torch.randn(12, generator=generator)
        made.tokens["source", k, 0] = torch.einsum("w,wnd->nd", hidden, source)
        shown = torch.einsum("w,wnd->nd", hidden[:rank], target)
        made.tokens["target", k, 0] = shown + noise * random_tokens(TARGET, generator)
    return made


def test_a_low_rank_map_recovers_a_planted_one() -> None:
    store = low_rank_world(rank=2, num_shadow_sets=60, noise=0.0)
    held_out = {side: store.tokens.pop((side, 59, 0)) for side in ("source", "target")}

    baseline = LowRankMap.fit(store)

    assert baseline.rank == 2
    assert baseline.left_out_error < 1e-6
    torch.testing.assert_close(baseline.predict(held_out["source"]), held_out["target"], rtol=1e-3, atol=1e-3)


def test_a_low_rank_map_finds_the_rank_under_noise_and_beats_ridge() -> None:
    store = low_rank_world(rank=2, num_shadow_sets=80, noise=2.0)
    held_out = [{side: store.tokens.pop((side, k, 0)) for side in ("source", "target")} for k in range(50, 80)]

    baseline, ridge = LowRankMap.fit(store), RidgeMap.fit(store)

    errors = {
        map_: sum(float((map_.predict(pair["source"]) - pair["target"]).square().sum()) for pair in held_out)
        for map_ in (baseline, ridge)
    }
    assert baseline.rank in (1, 2)
    assert errors[baseline] < errors[ridge]


def test_at_full_rank_it_is_ridge_of_that_strength() -> None:
    store = low_rank_world(rank=3, num_shadow_sets=12, noise=1.0)
    kernel, gram_of_targets = (
        gram(standardised(store, side, *shadow_statistics(store, side)))  # type: ignore[arg-type]
        for side in ("source", "target")
    )
    ridge = RidgeMap.fit(store, strength=0.1)
    _, projection = _fit(kernel, gram_of_targets, strength=0.1, rank=12)

    weights = ridge.weights(store.tokens["source", 2, 0])

    torch.testing.assert_close(ridge.mixed(projection @ weights), ridge.mixed(weights), rtol=1e-4, atol=1e-5)


def test_a_low_rank_map_needs_a_shadow_set_for_every_fold() -> None:
    store = low_rank_world(rank=2, num_shadow_sets=4, noise=0.0)

    with pytest.raises(StoreError, match="at least 5 shadow sets, got 4"):
        LowRankMap.fit(store)
