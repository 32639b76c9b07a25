"""The shift between private and public texts: found where there is one, not where there is none, on rows of either."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.finetuning import load_language_model
from gradtx_hf.playground import Rule, make_lines, source_path
from gradtx_hf.privacy.shift import LEAST_ROWS, Shift, ShiftSettings, embed_rows, measure_shift
from gradtx_hf.privacy.two_sample import Bound, TwoSampleResult


RULE = Rule("reverse", 3)
SETTINGS = ShiftSettings(max_length=32, max_rows=200, num_permutations=19, batch_size=64)
Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def source() -> Loaded:
    return load_language_model(str(source_path()), max_length=32)


def lines(num_lines: int, *, seed: str) -> Dataset:
    return Dataset.from_list(make_lines([RULE], num_lines, seed=seed))


def other_letters(num_lines: int) -> Dataset:
    generator = random.Random(0)
    texts = ["".join(generator.choices("abcd", k=6)) for _ in range(num_lines)]
    return Dataset.from_list([{"prompt": f"??{text}=", "completion": RULE.apply(text)} for text in texts])


def measured(source: Loaded, public: list[Dataset], private: Dataset, **changes: int) -> Shift:
    settings = replace(SETTINGS, **changes)
    return measure_shift(public, private, model=source[0], tokenizer=source[1], settings=settings)


def test_texts_of_one_kind_show_no_shift(source: Loaded) -> None:
    shift = measured(source, [lines(300, seed="public")], lines(250, seed="private"))

    assert not shift.is_found
    assert (shift.num_rows, shift.num_private, shift.num_public) == (200, 250, 300)
    assert shift.verdict.startswith("No shift found: ")
    assert "200 rows each" in shift.verdict


def test_texts_of_other_letters_show_a_large_shift(source: Loaded) -> None:
    shift = measured(source, [lines(150, seed="a"), lines(150, seed="b")], other_letters(250))

    assert shift.is_found
    assert shift.result.auc > 0.95
    assert shift.result.kl.low > 1.0  # the truth is 6 log(12 / 4) = 6.6
    assert shift.verdict.startswith("A large shift: ")


def test_the_same_seed_draws_the_same_rows(source: Loaded) -> None:
    data = [lines(300, seed="public")], lines(250, seed="private")

    assert measured(source, *data) == measured(source, *data)
    assert measured(source, *data) != measured(source, *data, seed=1)


def test_a_text_counts_once_and_is_not_held_out_from_itself(source: Loaded) -> None:
    """Every private row is copied five times, and is public too: by heart, a classifier would tell them apart."""
    own = make_lines([RULE], 100, seed="own")

    shift = measured(source, [Dataset.from_list(own)], Dataset.from_list(own * 5))

    assert (shift.num_rows, shift.num_private, shift.num_public) == (100, 100, 100)
    assert shift.result.auc == pytest.approx(0.5)  # a row and its copy have the same log-odds
    assert not shift.is_found


def test_rows_of_every_kind_can_be_read(source: Loaded) -> None:
    texts = Dataset.from_dict({"text": [row["prompt"] + row["completion"] for row in make_lines([RULE], 80, seed="t")]})

    shift = measured(source, [lines(80, seed="public")], texts)

    assert shift.num_rows == 80


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_embedding_is_the_mean_over_a_rows_own_tokens(source: Loaded, batch_size: int) -> None:
    model, _ = source
    rows = [(5, 6, 7, 8), (9, 4), (3,), (6, 6, 6, 1, 2, 3, 4)]

    embeddings = embed_rows(model, rows, batch_size=batch_size)

    for row, embedding in zip(rows, embeddings, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(embedding, states.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_private", "num_public", "said"), [(LEAST_ROWS - 1, 60, "private"), (60, 9, "public")])
def test_too_few_rows_are_refused(source: Loaded, num_private: int, num_public: int, said: str) -> None:
    with pytest.raises(DataError, match=f"got {min(num_private, num_public)} different rows of {said} data"):
        measured(source, [lines(num_public, seed="public")], lines(num_private, seed="private"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_rows": 10}, "got max_rows=10"),
        ({"num_permutations": 1}, "got num_permutations=1"),
        ({"max_length": 1}, "got max_length=1"),
        ({"batch_size": 0}, "got batch_size=0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ShiftSettings(**changes)


@pytest.mark.parametrize(
    ("auc", "p_value", "begin"),
    [(0.9, 0.2, "No shift found"), (0.6, 0.01, "A slight shift"), (0.7, 0.05, "A clear"), (0.9, 0.01, "A large")],
)
def test_the_verdict_follows_from_the_numbers(auc: float, p_value: float, begin: str) -> None:
    nothing = Bound(0.0, 0.0)
    result = TwoSampleResult(auc, auc - 0.01, auc + 0.01, p_value, 99, jensen_shannon=nothing, kl=nothing)

    verdict = Shift(result, num_rows=1234, num_private=2000, num_public=3000).verdict

    assert verdict.startswith(begin)
    assert f"AUC {auc:.2f} [{auc - 0.01:.2f}, {auc + 0.01:.2f}], p = {p_value:.2g}, 1,234 rows each" in verdict
