from __future__ import annotations

import pytest
import torch

from gradtx_hf.translation.calibration import (
    LEVEL,
    fit_components,
    gram_matrix,
    measure_by_gram,
    measure_left_out,
    num_components,
    upper_limit,
)


def updates(number: int, num_elements: int, *, seed: int = 0) -> torch.Tensor:
    """Return updates ``[M, E]`` that vary most in three directions, with a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(number, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])
    directions = torch.randn(3, num_elements, generator=torch.Generator().manual_seed(99))
    return 1 + codes @ directions + 0.3 * torch.randn(number, num_elements, generator=generator)


def test_components_of_the_gram_matrix_are_those_of_a_singular_value_decomposition() -> None:
    rows = updates(30, 200)

    components = fit_components(gram_matrix(rows, num_elements=200), most=3)

    centred = (rows - rows.mean(0)).double()
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    got = components.weights.T @ rows.double()
    assert torch.allclose(got.square().mean(1), torch.ones(3, dtype=torch.float64), atol=1e-4)
    cosines = (got * directions[:3]).sum(1).abs() / got.norm(dim=1)
    torch.testing.assert_close(cosines, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(components.variances, singular[:3].square() / 30 / 200, rtol=1e-5, atol=0)


def test_norms_from_inner_products_are_those_of_the_updates_themselves() -> None:
    rows = updates(40, 150).double()
    fitted, measured = torch.arange(30), torch.arange(30, 40)
    gram = gram_matrix(rows, num_elements=150)
    components = fit_components(gram[:30, :30], most=4)

    norms = measure_by_gram(gram, components, fitted=fitted, measured=measured)

    axes = components.weights.T @ rows[:30]
    differences = rows[30:] - rows[:30].mean(0)
    scores = differences @ axes.T / 150
    torch.testing.assert_close(norms.inside, (scores.square() / components.variances).mean(1).sqrt())
    torch.testing.assert_close(norms.outside, (differences - scores @ axes).square().mean(1).sqrt())


def test_fitted_updates_have_whitened_norm_one_on_average() -> None:
    gram = gram_matrix(updates(30, 200), num_elements=200)
    everyone = torch.arange(30)

    norms = measure_by_gram(gram, fit_components(gram, most=5), fitted=everyone, measured=everyone)

    assert norms.inside.square().mean().item() == pytest.approx(1, abs=1e-3)


def test_updates_that_were_left_out_lie_farther_outside_than_fitted_ones() -> None:
    gram = gram_matrix(updates(40, 200), num_elements=200)
    everyone = torch.arange(40)

    left_out = measure_left_out(gram, num_fitted=40).outside
    fitted = measure_by_gram(gram, fit_components(gram, most=8), fitted=everyone, measured=everyone).outside

    assert len(left_out) == 40
    assert left_out.mean() > 1.1 * fitted.mean()


def test_held_out_updates_are_measured_by_all_fitted_ones() -> None:
    gram = gram_matrix(updates(40, 200), num_elements=200)

    norms = measure_left_out(gram, num_fitted=35)

    components = fit_components(gram[:35, :35], most=num_components(35))
    expected = measure_by_gram(gram, components, fitted=torch.arange(35), measured=torch.arange(35, 40))
    assert len(norms.outside) == 40
    assert torch.equal(norms.outside[35:], expected.outside)
    assert torch.equal(norms.inside[35:], expected.inside)


def test_directions_that_hold_only_rounding_are_no_components() -> None:
    rows = torch.randn(40, 3) @ torch.randn(3, 200)

    components = fit_components(gram_matrix(rows, num_elements=200), most=10)

    assert len(components.variances) == 3


@pytest.mark.parametrize("number", [8, 20, 100])
def test_one_more_norm_of_the_same_kind_stays_below_the_limit_as_often_as_was_said(number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = (0.2 * torch.randn(4000, number + 1, generator=generator)).exp()

    exceeded = [float(row[-1]) > upper_limit(row[:-1]) for row in draws]

    # 4,000 draws at a rate of 0.25 % are 10 ± 3.2
    assert sum(exceeded) / 4000 < 1 - LEVEL + 0.0025


def test_a_long_tail_lifts_the_limit_to_its_quantile() -> None:
    norms = torch.ones(1000)
    norms[:20] = 50.0

    assert upper_limit(norms) == pytest.approx(50)


def test_norms_that_are_all_alike_leave_a_tenth() -> None:
    norms = 3 + 1e-5 * torch.randn(100)

    assert upper_limit(norms) == pytest.approx(3.3, rel=1e-4)
