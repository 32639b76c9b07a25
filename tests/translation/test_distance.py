from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradtx_hf.errors import DataError, LayoutError
from gradtx_hf.translation import LEAST_SHADOW_SETS, InputDistance, distance
from gradtx_hf.updates.partition import WHOLE, partition_store
from gradtx_hf.updates.store import UpdateStore
from tests.translation.clouds import Cloud, large_layout, write_store


NUM_SETS = 60
LAYOUT = large_layout()


@pytest.fixture(scope="module")
def cloud() -> Cloud:
    return Cloud(LAYOUT)


@pytest.fixture(scope="module")
def store(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> UpdateStore:
    folder = tmp_path_factory.mktemp("distance") / "store"
    return write_store(folder, cloud.draw(NUM_SETS, seed=1), LAYOUT)


@pytest.fixture(scope="module")
def fitted(store: UpdateStore) -> InputDistance:
    return InputDistance.fit(store, fit_sets=range(5, NUM_SETS), held_out_sets=range(5))


def measure(fitted: InputDistance, updates: Tensor) -> Tensor:
    """Return the distances ``[M]`` of updates ``[M, N, D]``, relative to the limit."""
    return torch.tensor([fitted.measure(update) for update in updates]) / fitted.limit


def area_under_curve(high: Tensor, low: Tensor) -> float:
    """Return the share of pairs whose first is the higher."""
    return float((high[:, None] > low[None]).float().mean())


def shuffled(updates: Tensor, mask: Tensor) -> Tensor:
    """Permute the elements of updates, the padding left alone."""
    changed = updates.clone()
    changed[:, mask] = updates[:, mask][:, torch.randperm(int(mask.sum()))]
    return changed


def test_new_updates_of_the_same_kind_lie_around_one_and_within_the_limit(cloud: Cloud, fitted: InputDistance) -> None:
    distances = measure(fitted, cloud.draw(400, seed=2))

    assert (distances <= 1).float().mean() > 0.95
    assert (distances * fitted.limit).log().mean().exp().item() == pytest.approx(1, abs=0.1)
    assert fitted.limit > 1


@pytest.mark.parametrize("held_out", [(), (0,), tuple(range(30))])
def test_the_limit_holds_with_none_few_and_many_held_out_sets(
    cloud: Cloud, store: UpdateStore, held_out: tuple[int, ...]
) -> None:
    fitted = InputDistance.fit(store, fit_sets=range(30, NUM_SETS), held_out_sets=held_out)

    assert (measure(fitted, cloud.draw(400, seed=2)) <= 1).float().mean() > 0.95


def test_the_limit_holds_with_the_least_number_of_shadow_sets(cloud: Cloud, store: UpdateStore) -> None:
    fitted = InputDistance.fit(store, fit_sets=range(LEAST_SHADOW_SETS), held_out_sets=())

    assert (measure(fitted, cloud.draw(400, seed=2)) <= 1).float().mean() > 0.95


def test_updates_that_were_fitted_and_blends_of_them_are_on_the_map(store: UpdateStore, fitted: InputDistance) -> None:
    updates = torch.stack([store.snapshot("source", k, -1) for k in range(5, NUM_SETS)])

    assert measure(fitted, updates).max() <= 1
    assert measure(fitted, (updates[1:] + updates[:-1]) / 2).max() <= 1


def test_foreign_updates_lie_off_the_map(cloud: Cloud, fitted: InputDistance) -> None:
    updates = cloud.draw(100, seed=3)
    noise = torch.randn(updates.shape, generator=torch.Generator().manual_seed(123)) * cloud.mask
    foreign = {
        "three times as large": 3 * updates,
        "of the other sign": -updates,
        "permuted": shuffled(updates, cloud.mask),
        "noise of the same norm": noise * (updates.norm(dim=(1, 2)) / noise.norm(dim=(1, 2)))[:, None, None],
        "of another mean": Cloud(LAYOUT, seed=1).draw(100, seed=3),
    }

    within = [name for name, those in foreign.items() if measure(fitted, those).min() <= 1]

    assert within == []


def test_updates_in_other_directions_are_told_from_held_out_ones(cloud: Cloud, fitted: InputDistance) -> None:
    other = Cloud(LAYOUT, seed=7)
    other.mean = cloud.mean  # the same centre, so that only the directions differ

    foreign, own = measure(fitted, other.draw(200, seed=4)), measure(fitted, cloud.draw(200, seed=5))

    assert area_under_curve(foreign, own) >= 0.99


def test_a_combination_that_never_occurred_is_far_inside_the_components(cloud: Cloud, fitted: InputDistance) -> None:
    far = cloud.scale * (cloud.mean + 6 * cloud.directions[:1]) * cloud.mask

    assert measure(fitted, far).item() > 1


def test_what_lies_between_the_mean_and_the_shadow_sets_is_near(cloud: Cloud, fitted: InputDistance) -> None:
    mean_of_clients = cloud.draw(50, seed=6).mean(0)

    assert fitted.measure(fitted.mean) == 0
    assert measure(fitted, mean_of_clients[None]).item() < 0.5


def test_the_zero_update_is_as_far_as_the_mean_is_from_zero(
    cloud: Cloud, fitted: InputDistance, tmp_path: Path
) -> None:
    zero = torch.zeros(1, *fitted.mean.shape)
    centred = Cloud(LAYOUT)
    centred.mean = torch.zeros_like(cloud.mean)
    store = write_store(tmp_path / "store", centred.draw(20, seed=1), LAYOUT)

    around_zero = InputDistance.fit(store, fit_sets=range(20), held_out_sets=())

    assert measure(fitted, zero).item() > 1  # this cloud's mean is larger than its spread
    assert measure(around_zero, zero).item() < 0.5


def test_updates_of_exactly_few_dimensions_are_measured(cloud: Cloud, tmp_path: Path) -> None:
    flat = Cloud(LAYOUT, noise=0.0)
    store = write_store(tmp_path / "store", flat.draw(40, seed=1), LAYOUT)

    fitted = InputDistance.fit(store, fit_sets=range(40), held_out_sets=())

    assert len(fitted.variances) == 3
    assert (measure(fitted, flat.draw(200, seed=2)) <= 1).float().mean() > 0.95
    assert measure(fitted, cloud.draw(50, seed=3)).min() > 1


def test_huge_updates_have_finite_distances(fitted: InputDistance) -> None:
    huge = torch.full_like(fitted.mean, 3e38) * LAYOUT.mask()

    assert 1e38 < fitted.measure(huge) < float("inf")


def test_the_size_of_updates_does_not_matter(cloud: Cloud, fitted: InputDistance, tmp_path: Path) -> None:
    updates = 1e-4 * cloud.draw(NUM_SETS, seed=1)
    small = InputDistance.fit(
        write_store(tmp_path / "store", updates, LAYOUT), fit_sets=range(5, NUM_SETS), held_out_sets=range(5)
    )

    new = cloud.draw(5, seed=2)

    assert small.limit == pytest.approx(fitted.limit, rel=1e-3)
    torch.testing.assert_close(measure(small, 1e-4 * new), measure(fitted, new), rtol=2e-3, atol=0)


def test_the_order_of_blocks_does_not_matter(cloud: Cloud, store: UpdateStore, fitted: InputDistance) -> None:
    view = partition_store(store, "reversed")[WHOLE]

    reversed_ = InputDistance.fit(view, fit_sets=range(5, NUM_SETS), held_out_sets=range(5))

    update = cloud.draw(1, seed=2)[0]
    assert reversed_.layout == LAYOUT.reversed()
    assert reversed_.limit == pytest.approx(fitted.limit, rel=1e-4)
    assert reversed_.measure(update.flip(0)) == pytest.approx(fitted.measure(update), rel=1e-3)


def test_fitting_twice_gives_the_same_bits(store: UpdateStore) -> None:
    first, second = (InputDistance.fit(store, fit_sets=range(20), held_out_sets=range(20, 25)) for _ in range(2))

    assert torch.equal(first.components, second.components)
    assert (first.limit, first.inside_limit, first.outside_limit) == (
        second.limit,
        second.inside_limit,
        second.outside_limit,
    )


def test_of_very_many_shadow_sets_some_spread_over_all_are_fitted(
    store: UpdateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "MAX_SHADOW_SETS", 20)

    thinned = InputDistance.fit(store, fit_sets=range(NUM_SETS), held_out_sets=())

    expected = InputDistance.fit(store, fit_sets=range(0, NUM_SETS, 3), held_out_sets=())
    assert torch.equal(thinned.mean, expected.mean)


def test_what_cannot_be_fitted_is_refused(store: UpdateStore, tmp_path: Path) -> None:
    same = write_store(tmp_path / "same", torch.ones(10, *LAYOUT.mask().shape) * LAYOUT.mask(), LAYOUT)

    with pytest.raises(DataError, match=r"got 7 shadow sets .* expected at least 8\. Curate more"):
        InputDistance.fit(store, fit_sets=range(7), held_out_sets=range(7, 20))
    with pytest.raises(DataError, match="shadow set 3 is both fitted and held out"):
        InputDistance.fit(store, fit_sets=range(20), held_out_sets=(3,))
    with pytest.raises(DataError, match="of all shadow sets are the same"):
        InputDistance.fit(same, fit_sets=range(10), held_out_sets=())


def test_tokens_that_do_not_fit_are_refused(fitted: InputDistance) -> None:
    with pytest.raises(
        LayoutError, match=r"got tokens of shape \[4, 5\] to measure, expected finite ones of \[4, 182\]"
    ):
        fitted.measure(torch.zeros(4, 5))
    with pytest.raises(LayoutError, match="expected finite ones"):
        fitted.measure(torch.full((4, 182), float("nan")))
