from __future__ import annotations

from collections import Counter

import pytest

from gradtx_hf.curation import Corpus, mixture_shares, plan_shadow_sets, run_seed
from gradtx_hf.errors import DataError


CORPORA = [Corpus("a", 50), Corpus("b", 40), Corpus("c", 30)]


def shares(mixture: str, *, num_shadow_sets: int = 6, seed: int = 0, alpha: float = 0.5) -> list[list[float]]:
    return mixture_shares(
        mixture,  # type: ignore[arg-type]
        num_corpora=3,
        num_shadow_sets=num_shadow_sets,
        weights=[2.0, 1.0, 1.0],
        dirichlet_alpha=alpha,
        seed=seed,
    )


def plan(mixture: str, *, num_shadow_sets: int = 6, seed: int = 0) -> list[dict[str, list[int]]]:
    return plan_shadow_sets(
        CORPORA,
        num_shadow_sets=num_shadow_sets,
        samples_per_set=20,
        shares=shares(mixture, num_shadow_sets=num_shadow_sets, seed=seed),
        seed=seed,
    )


def test_single_takes_the_corpora_in_turn() -> None:
    assert [list(rows) for rows in plan("single")] == [["a"], ["b"], ["c"], ["a"], ["b"], ["c"]]


def test_weights_give_every_set_the_same_counts() -> None:
    counts = [{label: len(rows) for label, rows in shadow_set.items()} for shadow_set in plan("weights")]

    assert counts == [{"a": 10, "b": 5, "c": 5}] * 6


def test_dirichlet_differs_from_set_to_set_and_fills_each() -> None:
    drawn = plan("dirichlet")

    assert all(sum(map(len, rows.values())) == 20 for rows in drawn)
    assert len({tuple(sorted((label, len(rows)) for label, rows in shadow_set.items())) for shadow_set in drawn}) > 3


@pytest.mark.parametrize(("alpha", "largest"), [(0.01, (0.95, 1.0)), (1000.0, (0.3, 0.4))])
def test_dirichlet_alpha_goes_from_one_corpus_to_all_alike(alpha: float, largest: tuple[float, float]) -> None:
    drawn = shares("dirichlet", num_shadow_sets=200, alpha=alpha)

    assert largest[0] <= sum(max(share) for share in drawn) / 200 <= largest[1]


@pytest.mark.parametrize("mixture", ["single", "weights", "dirichlet"])
def test_plan_comes_back_from_its_seed_alone(mixture: str) -> None:
    assert plan(mixture) == plan(mixture)
    assert plan(mixture) != plan(mixture, seed=1)
    assert plan(mixture, num_shadow_sets=9)[:6] == plan(mixture)


def test_no_row_is_twice_in_a_set_and_sets_differ() -> None:
    drawn = plan("weights")

    for shadow_set in drawn:
        assert all(max(Counter(rows).values()) == 1 for rows in shadow_set.values())
    assert len({tuple(shadow_set["a"]) for shadow_set in drawn}) == 6


def test_too_small_corpus_is_named() -> None:
    with pytest.raises(DataError, match=r"corpus 'c' has 30 rows, shadow set 2 needs 31\. Lower samples_per_set"):
        plan_shadow_sets(CORPORA, num_shadow_sets=3, samples_per_set=31, shares=shares("single"), seed=0)


def test_run_seed_tells_seed_side_and_set_apart() -> None:
    seeds = {run_seed(seed, side, k) for seed in (0, 1) for side in ("source", "target") for k in range(50)}

    assert len(seeds) == 200
    assert run_seed(0, "source", 3) == run_seed(0, "source", 3)
