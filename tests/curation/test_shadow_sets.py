from __future__ import annotations

from collections import Counter

import pytest

from gradtx_hf.curation import Corpus, choose_target_sets, mixture_shares, plan_shadow_sets, run_seed
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


def targets(num: int | None, *, mixture: str = "single", num_shadow_sets: int = 30, seed: int = 0) -> list[int]:
    return choose_target_sets(
        num,
        mixture=mixture,  # type: ignore[arg-type]
        num_corpora=10,
        num_shadow_sets=num_shadow_sets,
        seed=seed,
    )


@pytest.mark.parametrize("num", [1, 8, 10, 13, 20, 25])
def test_target_runs_cover_every_corpus_before_one_gets_a_second(num: int) -> None:
    chosen = targets(num)
    counts = [sum(k % 10 == corpus for k in chosen) for corpus in range(10)]

    assert len(chosen) == num
    assert max(counts) - min(counts) <= 1
    assert max(k // 10 for k in chosen) == (num - 1) // 10
    assert chosen == sorted(set(chosen))


def test_all_target_runs_and_none() -> None:
    assert targets(None) == targets(30) == targets(99) == list(range(30))
    assert targets(0) == []
    assert targets(8, num_shadow_sets=3) == [0, 1, 2]


@pytest.mark.parametrize("mixture", ["single", "weights", "dirichlet"])
def test_target_runs_are_drawn_by_the_seed_and_more_add_to_fewer(mixture: str) -> None:
    assert targets(8, mixture=mixture) == targets(8, mixture=mixture)
    assert len({tuple(targets(4, mixture=mixture, seed=seed)) for seed in range(5)}) > 1
    assert set(targets(4, mixture=mixture)) < set(targets(12, mixture=mixture))


def test_mixed_shadow_sets_all_have_the_same_chance_of_a_target_run() -> None:
    drawn = {k for seed in range(40) for k in targets(4, mixture="dirichlet", seed=seed)}

    assert drawn == set(range(30))
