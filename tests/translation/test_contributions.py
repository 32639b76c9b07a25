"""What a report says of each client: its share, norm, angle and distances, and who lies apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradtx_hf.errors import AdapterError
from gradtx_hf.translation import AggregationSettings
from gradtx_hf.translation.aggregation import Aggregation
from gradtx_hf.translation.contributions import Combined, combine_updates
from gradtx_hf.updates import UpdateVector
from tests.translation.clouds import large_layout


LAYOUT = large_layout()
MASK = LAYOUT.mask()


def one_task(num_clients: int, *, spread: float = 0.4, seed: int = 0) -> list[UpdateVector]:
    """Return updates of one task: one direction of norm 1, and noise of their own of norm ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_clients + 1, *MASK.shape, generator=generator) * MASK
    noise /= noise.flatten(1).norm(dim=1)[:, None, None]
    return [UpdateVector(noise[0] + spread * own, LAYOUT) for own in noise[1:]]


def combine(updates: list[UpdateVector], rule: Aggregation = "mean", weights: list[float] | None = None) -> Combined:
    names = [f"client {k}" for k in range(len(updates))]
    return combine_updates(updates, names=names, settings=AggregationSettings(rule), weights=weights)


def changed(updates: list[UpdateVector], factor: float) -> list[UpdateVector]:
    """Return the updates, the last one multiplied."""
    return [*updates[:-1], replace(updates[-1], tokens=factor * updates[-1].tokens)]


def test_each_clients_share_norm_angle_and_distance_are_told() -> None:
    updates = one_task(4)

    combined = combine(updates, weights=[1, 1, 1, 5])

    vectors = torch.stack([update.tokens.flatten() for update in updates]).double()
    aggregate = combined.update.tokens.flatten().double()
    torch.testing.assert_close(aggregate, torch.tensor([1, 1, 1, 5]).double() / 8 @ vectors, rtol=1e-5, atol=1e-7)
    for k, told in enumerate(combined.contributions):
        assert told.share == pytest.approx([0.125, 0.125, 0.125, 0.625][k])
        assert told.norm == pytest.approx(float(vectors[k].norm()))
        assert told.cosine == pytest.approx(
            float(vectors[k] @ aggregate / vectors[k].norm() / aggregate.norm()), abs=1e-6
        )
        others = sorted(float((vectors[k] - vectors[j]).norm()) for j in range(4) if j != k)
        assert told.distance == pytest.approx(others[1])


def test_padding_stays_zero_and_is_not_counted() -> None:
    assert not bool(MASK.all())

    combined = combine([UpdateVector(MASK.float(), LAYOUT)], rule="ties")

    assert bool((combined.update.tokens[~MASK] == 0).all())
    assert int(combined.update.tokens.sum()) == LAYOUT.num_elements // 2  # half of the elements, not of the tokens


def test_one_client_has_no_distance_and_no_warning() -> None:
    combined = combine(one_task(1))

    assert combined.contributions[0].distance is None
    assert combined.contributions[0].cosine == pytest.approx(1)
    assert combined.warnings == ()


@pytest.mark.parametrize("num_clients", [3, 4, 5, 10])
@pytest.mark.parametrize("factor", [20, -1, -0.5])
def test_a_scaled_or_flipped_update_is_named_and_no_other(num_clients: int, factor: float) -> None:
    combined = combine(changed(one_task(num_clients), factor))

    (warning,) = combined.warnings
    assert warning.startswith(f"adapter 'client {num_clients - 1}' lies apart from the other clients: its distance to ")
    assert "leave it out, or aggregate by median or trimmed_mean" in warning


def test_who_aggregates_by_the_median_is_not_advised_to() -> None:
    (warning,) = combine(changed(one_task(5), 20), rule="median").warnings

    assert warning.endswith("Check it or leave it out.")


def test_random_numbers_of_the_usual_norm_are_named() -> None:
    (stranger,) = one_task(1, seed=9)

    (warning,) = combine([*one_task(4), stranger]).warnings

    assert "'client 4'" in warning


@pytest.mark.parametrize("num_clients", [2, 3, 5, 10])
@pytest.mark.parametrize("spread", [0, 1e-7, 0.4, 3])
def test_clients_that_differ_alike_are_not_warned_of(num_clients: int, spread: float) -> None:
    assert combine(one_task(num_clients, spread=spread)).warnings == ()


def test_of_clients_with_a_task_each_none_lies_apart() -> None:
    updates = [one_task(1, seed=seed)[0] for seed in range(3)]

    assert combine(updates).warnings == ()


def test_of_two_clients_none_can_be_told_to_be_the_outlier() -> None:
    assert combine(changed(one_task(2), 20)).warnings == ()


def test_a_client_that_does_nothing_has_no_angle() -> None:
    combined = combine([*one_task(2), UpdateVector(torch.zeros(MASK.shape), LAYOUT)])

    assert combined.contributions[2].cosine == 0
    assert combined.contributions[2].norm == 0


def test_an_aggregate_too_large_for_float32_is_refused() -> None:
    huge = UpdateVector(3e38 * MASK, LAYOUT)

    with pytest.raises(AdapterError, match="the sum of the adapters holds NaN or infinite values: an update is too"):
        combine([huge, huge], rule="sum")
    assert bool(combine([huge, huge, huge], rule="median").update.tokens.isfinite().all())
