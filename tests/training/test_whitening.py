from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.training.statistics import set_statistics
from gradtx_hf.training.whitening import whiten_linear_path, whitening_directions
from tests.training.stores import write_linear_store


def correlated_updates(num_updates: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(1, -1, size)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    return torch.randn(num_updates, size, generator=generator) * scales @ rotation + 3.0


@pytest.mark.parametrize(("num_updates", "size"), [(400, 12), (30, 200)])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_noisy_updates_have_unit_variance_along_the_directions(num_updates: int, size: int, noise: float) -> None:
    updates = correlated_updates(num_updates, size)
    directions = whitening_directions(updates, rank=8, noise=noise).double()
    assert directions.shape == (8, size)
    clean = torch.cov(((updates - updates.mean(0)).double() @ directions.T).T, correction=0)
    noisy = clean + noise**2 * directions @ directions.T
    torch.testing.assert_close(noisy, torch.eye(8, dtype=torch.float64), atol=2e-4, rtol=2e-4)


def test_the_directions_are_those_of_a_singular_value_decomposition() -> None:
    updates = correlated_updates(50, 20)
    directions = whitening_directions(updates, rank=5, noise=0.0)
    expected = torch.linalg.svd(updates - updates.mean(0), full_matrices=False).Vh[:5]
    cosines = (torch.nn.functional.normalize(directions, dim=1) * expected).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(5), atol=1e-4, rtol=0)


def test_only_as_many_directions_are_set_as_the_updates_span(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)
    model = GradTransformerModel(
        GradTransformerConfig.from_layouts(store.source_layout, store.target_layout, linear_rank=6)
    )
    set_statistics(model, store, source_snapshots=store.source_snapshots, num_target_runs=None)
    assert model.linear_path is not None
    before = model.linear_path.down.weight.detach().clone()
    assert whiten_linear_path(model, store, store.source_snapshots, noise=0.1) == 3
    after = model.linear_path.down.weight.detach()
    assert torch.equal(after[3:], before[3:])
    assert not torch.equal(after[:3], before[:3])


def test_a_model_without_a_linear_path_is_left_alone(tmp_path: Path) -> None:
    store = write_linear_store(tmp_path / "store", num_shadow_sets=4)
    model = GradTransformerModel(GradTransformerConfig.from_layouts(store.source_layout, store.target_layout))
    assert whiten_linear_path(model, store, store.source_snapshots, noise=0.1) == 0
