from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import DataSource, Sample, load_samples
from gradtx_hf.finetuning.pool import one_thread, run_jobs


def write_rows(path: Path, num_rows: int) -> DataSource:
    path.write_text("".join(f"{path.stem} {n}\n" for n in range(num_rows)))
    return DataSource(path=str(path))


def test_all_rows_come_in_their_order(tmp_path: Path) -> None:
    examples = load_samples([Sample(write_rows(tmp_path / "a.txt", 5))], seed=3)

    assert list(examples["text"]) == [f"a {n}" for n in range(5)]


def test_a_mixture_has_the_asked_number_of_each_without_repeats(tmp_path: Path) -> None:
    samples = [Sample(write_rows(tmp_path / f"{name}.txt", 20), n) for name, n in (("a", 7), ("b", 3))]

    texts = list(load_samples(samples, seed=0)["text"])

    assert [text[0] for text in texts] == ["a"] * 7 + ["b"] * 3
    assert len(set(texts)) == 10


def test_the_drawing_follows_from_the_seed(tmp_path: Path) -> None:
    samples = [Sample(write_rows(tmp_path / "a.txt", 50), 10)]

    first, again, other = (list(load_samples(samples, seed=seed)["text"]) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_two_samples_of_one_source_are_drawn_apart(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.txt", 50)

    texts = list(load_samples([Sample(source, 10), Sample(source, 10)], seed=0)["text"])

    assert texts[:10] != texts[10:]


def test_too_few_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt' has 5 examples in split 'train', expected at least 6"):
        load_samples([Sample(write_rows(tmp_path / "a.txt", 5), 6)], seed=0)


def test_sources_of_different_kinds_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    samples = [Sample(write_rows(tmp_path / "a.txt", 5)), Sample(DataSource(path=str(tmp_path / "b.jsonl")))]

    with pytest.raises(DataError, match=r"b\.jsonl' gives prompt, completion, but .*a\.txt' gives text"):
        load_samples(samples, seed=0)


def test_no_source_is_refused() -> None:
    with pytest.raises(DataError, match="got no data source"):
        load_samples([], seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "a.txt", "num_samples": 0}, "got num_samples=0, expected a whole number of at least 1"),
        ({"path": "a.txt", "num_samples": "5"}, "got num_samples='5'"),
        ({"path": "a.txt", "number": 5}, "got unknown data key 'number'"),
        ({"num_samples": 5}, "lacks 'path'"),
        ("a.txt", "got data source 'a.txt', expected keys and values"),
    ],
)
def test_values_that_are_no_sample_are_refused(values: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Sample.from_dict(values)  # type: ignore[arg-type]


def test_a_sample_is_made_of_a_configuration() -> None:
    sample = Sample.from_dict({"path": "a.txt", "split": "train[:5]", "num_samples": 3})

    assert sample == Sample(DataSource(path="a.txt", split="train[:5]"), 3)


def double(number: int) -> tuple[int, int]:
    if number < 0:
        raise ValueError(f"got {number}")
    return 2 * number, os.getpid()


def test_one_worker_is_this_process_and_keeps_the_order() -> None:
    assert list(run_jobs(double, [1, 2, 3], num_workers=1, description="doubling")) == [
        (i, (2 * i + 2, os.getpid())) for i in range(3)
    ]


def test_what_a_job_raises_comes_out() -> None:
    results = run_jobs(double, [1, -1, 3], num_workers=1, description="doubling")

    assert next(results)[0] == 0
    with pytest.raises(ValueError, match="got -1"):
        next(results)


def test_one_thread_is_for_a_while_only_even_where_something_fails() -> None:
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="got -1"):
            one_thread()(double)(-1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_without_jobs_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(run_jobs(double, [], num_workers=4, description="doubling")) == []
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_several_workers_are_other_processes_with_the_same_results() -> None:
    results = dict(run_jobs(double, [1, 2, 3, 4], num_workers=2, description="doubling"))

    assert {i: value for i, (value, _) in results.items()} == {0: 2, 1: 4, 2: 6, 3: 8}
    assert os.getpid() not in {process for _, process in results.values()}


@pytest.mark.slow
def test_what_a_worker_raises_comes_out() -> None:
    with pytest.raises(ValueError, match="got -1"):
        list(run_jobs(double, [-1, 2, 3], num_workers=2, description="doubling"))


def test_halves_are_of_each_sample_and_share_no_row(tmp_path: Path) -> None:
    samples = [Sample(write_rows(tmp_path / "a.txt", 5), 4), Sample(write_rows(tmp_path / "b.txt", 3))]
    whole, first, second = (
        list(load_samples(samples, seed=1, half=half)["text"]) for half in (None, "first", "second")
    )
    assert first == [*whole[:2], whole[4]]
    assert second == [*whole[2:4], *whole[5:]]
    with pytest.raises(DataError, match="gives one row, of which there is no half"):
        load_samples([Sample(write_rows(tmp_path / "c.txt", 1))], seed=0, half="first")
