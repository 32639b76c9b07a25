"""Baselines over update tokens, on a small store in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradtx_hf.baselines import NearestShadow, RidgeMap, ShadowMean
from gradtx_hf.baselines.ridge import RIDGE_STRENGTHS, left_out_errors
from gradtx_hf.baselines.shadows import shadow_statistics
from gradtx_hf.errors import LayoutError, StoreError
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import UpdateStore


def layout(*, width: int, num_layers: int) -> BlockLayout:
    shapes: dict[str, tuple[int, int]] = {}
    for n in range(num_layers):
        shapes[f"layers.{n}.q_proj.lora_A"] = (2, width)
        shapes[f"layers.{n}.q_proj.lora_B"] = (width + n, 2)  # the first block is padded
    return BlockLayout.from_shapes(shapes)


SOURCE, TARGET = layout(width=4, num_layers=2), layout(width=6, num_layers=3)


@dataclass
class MemoryStore:
    """Updates by (side, shadow set, snapshot)."""

    source_layout: BlockLayout = SOURCE
    target_layout: BlockLayout = TARGET
    tokens: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return sorted({(k, i) for side, k, i in self.tokens if side == "target"})

    def snapshot(self, side: str, shadow_set: int, snapshot: int) -> Tensor:
        return self.tokens[side, shadow_set, snapshot]


def random_tokens(layout: BlockLayout, generator: torch.Generator) -> Tensor:
    return torch.randn(layout.num_blocks, layout.block_dim, generator=generator) * layout.mask()


@pytest.fixture
def store() -> MemoryStore:
    generator = torch.Generator().manual_seed(0)
    made = MemoryStore()
    for k in range(5):
        for i in (0, 1):
            made.tokens["source", k, i] = random_tokens(SOURCE, generator)
            made.tokens["target", k, i] = random_tokens(TARGET, generator)
    return made


@dataclass
class LinearWorld:
    """Updates that a few hidden numbers decide; the target's are an affine function of the source's."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self.directions = {
            layout: torch.stack([random_tokens(layout, self.generator) for _ in range(4)])
            for layout in (SOURCE, TARGET)
        }

    def pair(self) -> tuple[Tensor, Tensor]:
        weights = torch.cat([torch.randn(3, generator=self.generator), torch.ones(1)])
        source, target = (torch.einsum("w,wnd->nd", weights, self.directions[side]) for side in (SOURCE, TARGET))
        return source, target

    def store(self, *, num_shadow_sets: int, noise: float = 0.0) -> MemoryStore:
        made = MemoryStore()
        for k in range(num_shadow_sets):
            source, target = self.pair()
            made.tokens["source", k, 0] = source
            made.tokens["target", k, 0] = target + noise * random_tokens(TARGET, self.generator)
        return made


def test_mean_is_the_mean_of_the_last_target_updates(store: MemoryStore) -> None:
    expected = torch.stack([store.tokens["target", k, 1] for k in range(5)]).mean(0)

    predicted = ShadowMean.fit(store).predict(store.tokens["source", 0, 1])

    torch.testing.assert_close(predicted, expected)


def test_nearest_returns_the_shadow_itself(store: MemoryStore) -> None:
    baseline = NearestShadow.fit(store)

    found = [baseline.nearest(store.tokens["source", k, 1]) for k in range(5)]

    assert found == [0, 1, 2, 3, 4]
    assert torch.equal(baseline.predict(store.tokens["source", 3, 1]), store.tokens["target", 3, 1])


def test_nearest_weighs_a_small_factor_like_a_large_one() -> None:
    store = MemoryStore()
    large, small = torch.zeros(2, SOURCE.block_dim), torch.zeros(2, SOURCE.block_dim)
    large[0, 0], small[0, 8] = 1000.0, 1.0  # lora_A's first element, lora_B's first element
    for k, (a, b) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        store.tokens["source", k, 0] = a * large + b * small
        store.tokens["target", k, 0] = torch.zeros(3, TARGET.block_dim)
    baseline = NearestShadow.fit(store)

    assert baseline.nearest(0.4 * large + 0.9 * small) == 2
    assert baseline.nearest(0.6 * large + 0.1 * small) == 1


def test_scales_are_one_per_tensor_and_one_in_the_padding(store: MemoryStore) -> None:
    for k in range(5):
        store.tokens["source", k, 1][1, :8] *= 100  # lora_A of the second layer
        store.tokens["source", k, 1][0, 8:16] = 0.3  # lora_B of the first layer never changes

    mean, scale = shadow_statistics(store, "source")

    updates = torch.stack([store.tokens["source", k, 1] for k in range(5)]).double()
    expected = (updates[:, 1, :8] - updates[:, 1, :8].mean(0)).square().mean().sqrt()
    torch.testing.assert_close(scale[1, :8], expected.expand(8))
    torch.testing.assert_close(mean, updates.mean(0))
    assert (scale[0, 8:] == 1).all()  # a constant tensor, then padding


def test_ridge_recovers_an_affine_map_on_new_clients() -> None:
    world = LinearWorld()
    baseline = RidgeMap.fit(world.store(num_shadow_sets=30))

    source, target = world.pair()

    torch.testing.assert_close(baseline.predict(source), target, rtol=1e-3, atol=1e-3)
    assert baseline.strength == min(RIDGE_STRENGTHS)
    assert baseline.left_out_error < 1e-6


def test_ridge_on_unrelated_updates_is_the_mean(store: MemoryStore) -> None:
    generator = torch.Generator().manual_seed(1)
    for k in range(40):
        store.tokens["source", k, 1] = random_tokens(SOURCE, generator)
        store.tokens["target", k, 1] = random_tokens(TARGET, generator)

    baseline = RidgeMap.fit(store)

    assert baseline.strength >= 10
    assert baseline.left_out_error == pytest.approx((40 / 39) ** 2, rel=0.05)
    mean = ShadowMean.fit(store).predict(store.tokens["source", 0, 1])
    assert (baseline.predict(store.tokens["source", 0, 1]) - mean).abs().max() < 0.05


def test_ridge_predicts_zero_in_the_padding() -> None:
    world = LinearWorld()
    baseline = RidgeMap.fit(world.store(num_shadow_sets=6, noise=0.1))

    predicted = baseline.predict(world.pair()[0])

    assert (predicted[~TARGET.mask()] == 0).all()


def test_left_out_error_equals_leaving_out_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    outputs = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    centred_in, centred_out = inputs - inputs.mean(0), outputs - outputs.mean(0)

    found = left_out_errors(centred_in @ centred_in.T, centred_out @ centred_out.T, penalties=[0.1, 3.0])

    for penalty, error in zip([0.1, 3.0], found, strict=True):
        expected = 0.0
        for left in range(6):
            kept = [k for k in range(6) if k != left]
            x, y = inputs[kept] - inputs[kept].mean(0), outputs[kept] - outputs[kept].mean(0)
            weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(9, dtype=torch.float64), x.T @ y)
            predicted = outputs[kept].mean(0) + (inputs[left] - inputs[kept].mean(0)) @ weights
            expected += float((outputs[left] - predicted).square().sum())
        assert error == pytest.approx(expected)


@pytest.mark.parametrize("baseline", [ShadowMean, NearestShadow, RidgeMap])
def test_an_update_of_another_shape_is_refused(baseline: type[RidgeMap], store: MemoryStore) -> None:
    fitted = baseline.fit(store)

    with pytest.raises(LayoutError, match=r"source tokens of shape \[3, 24\], expected \[2, 18\]"):
        fitted.predict(torch.zeros(3, 24))
    with pytest.raises(LayoutError, match="not all finite"):
        fitted.predict(torch.full((2, SOURCE.block_dim), torch.nan))


def test_baselines_read_an_update_store_on_disk(store: MemoryStore, tmp_path: Path) -> None:
    on_disk = UpdateStore.create(
        tmp_path / "store", plan={"num_shadow_sets": 5}, source_layout=SOURCE, target_layout=TARGET
    )
    for side in ("source", "target"):
        for k in range(5):
            on_disk.write(side, k, torch.stack([store.tokens[side, k, i] for i in (0, 1)]), {})
    on_disk.finish()
    client = store.tokens["source", 0, 0]

    for baseline in (ShadowMean, NearestShadow, RidgeMap):
        found = baseline.fit(UpdateStore.open(tmp_path / "store")).predict(client)

        torch.testing.assert_close(found, baseline.fit(store).predict(client))


@pytest.mark.parametrize("baseline", [ShadowMean, NearestShadow, RidgeMap])
def test_an_empty_store_is_refused(baseline: type[RidgeMap]) -> None:
    with pytest.raises(StoreError, match="no pair"):
        baseline.fit(MemoryStore())


def test_ridge_refuses_a_single_shadow_set() -> None:
    with pytest.raises(StoreError, match="at least two shadow sets"):
        RidgeMap.fit(LinearWorld().store(num_shadow_sets=1))


def sparse_store(folder: Path, *, num_target_runs: int) -> UpdateStore:
    """Fill a store of six shadow sets, of which the last ones have a target run too."""
    targets = list(range(6))[6 - num_target_runs :]
    store = UpdateStore.create(
        folder,
        plan={"num_shadow_sets": 6, "target_shadow_sets": targets},
        source_layout=SOURCE,
        target_layout=TARGET,
    )
    generator = torch.Generator().manual_seed(0)
    for shadow_set in range(6):
        store.write("source", shadow_set, random_tokens(SOURCE, generator)[None], {})
    for shadow_set in targets:
        store.write("target", shadow_set, random_tokens(TARGET, generator)[None], {})
    store.finish()
    return store


def test_baselines_use_the_shadow_sets_with_a_target_run(tmp_path: Path) -> None:
    store = sparse_store(tmp_path, num_target_runs=2)
    client = store.snapshot("source", 0, -1)  # its own shadow set has no target run

    targets = torch.stack([store.snapshot("target", k, -1) for k in (4, 5)])
    assert torch.allclose(ShadowMean.fit(store).predict(client), targets.mean(0), atol=1e-6)
    nearest = NearestShadow.fit(store)
    assert nearest.nearest(client) in (4, 5)
    assert [nearest.nearest(store.snapshot("source", k, -1)) for k in (4, 5)] == [4, 5]
    assert torch.equal(nearest.predict(client), targets[nearest.nearest(client) - 4])
    ridge = RidgeMap.fit(store)
    assert ridge.source_tokens.shape[0] == 2
    assert ridge.predict(client).shape == targets[0].shape


def test_store_without_target_runs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = sparse_store(tmp_path, num_target_runs=0)

    for baseline in (ShadowMean, NearestShadow, RidgeMap):
        with pytest.raises(StoreError, match=r"no target runs.*num_target_runs above 0"):
            baseline.fit(store)
