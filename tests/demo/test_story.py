"""The story: what it tells is what the package's own functions do."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
import torch

from gradtx_hf.demo import story
from gradtx_hf.errors import DataError
from gradtx_hf.playground import Rule, make_lines, split_rules
from tests.demo.conftest import NUM_LINES, RULE, Told


def lines_of(rule: Rule, number: int) -> str:
    rows = make_lines([rule], number, seed="own")
    return "\n".join(f"{row['prompt'].strip('?=')} = {row['completion']}" for row in rows)


def test_a_rules_lines_follow_it_and_none_is_held_out_too(told: Told) -> None:
    data = told.data

    assert (len(data.lines), len(data.held_out)) == (NUM_LINES, story.NUM_HELD_OUT)
    assert all(RULE.apply(line["prompt"].strip("?=")) == line["completion"] for line in (*data.lines, *data.held_out))
    assert not {line["prompt"] for line in data.lines} & {line["prompt"] for line in data.held_out}


def test_the_rules_that_the_translator_knows_are_the_seen_ones_of_its_split() -> None:
    assert story.known_rules() == {rule.name for rule in split_rules("full", seed=0).seen}


def test_own_lines_are_read_and_every_fifth_is_held_out() -> None:
    data = story.own_data("ABCDEF = fedcba\n\nabcdea,aedcba\n" + lines_of(Rule("reverse", 0), 20))

    assert data.lines[0] == {"prompt": "??abcdea=", "completion": "aedcba"}
    assert data.held_out[0] == {"prompt": "??abcdef=", "completion": "fedcba"}
    assert (len(data.lines), len(data.held_out)) == (17, 5)
    assert not {line["prompt"] for line in data.lines} & {line["prompt"] for line in data.held_out}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "got 0 different lines, expected 10 to 2000"),
        ("abcdef = fedcba\n" * 12, "got 1 different lines"),
        ("abcdef = fedcba\nabcxef = fedcba", "got line 2 'abcxef = fedcba', expected six letters of a-l"),
        ("abcdef = fedcba\nabcdef = aaaaaa", "line 2 gives 'abcdef' a second answer"),
        ("<script>alert(1)</script>", "got line 1 '<script>"),
    ],
)
def test_own_lines_that_cannot_be_used_are_refused(text: str, expected: str) -> None:
    with pytest.raises(DataError) as raised:
        story.own_data(text)

    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "abcde", "abcdefg", "abcdez", " ".join(f"abcde{c}" for c in "abcdefghi")])
def test_inputs_that_cannot_be_asked_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected"):
        story.read_inputs(text)


def test_the_client_is_told_of_every_step_and_leaves_nothing_behind(told: Told) -> None:
    assert told.steps == [(step, 60) for step in range(1, 61)]
    assert told.run.num_steps == 60
    assert told.run.privacy is None
    assert not list(Path(tempfile.gettempdir()).glob("gradtx-demo-*/adapter"))


def test_the_translated_adapter_answers_where_all_controls_fail(told: Told) -> None:
    answers = story.ask_all(
        told.data, source=told.run.adapter.tensors, translated=told.translated.tensors, inputs=("abcdef", "hijkla")
    )

    assert answers["translated"].score >= 0.95
    assert answers["translated"].completions == (RULE.apply("abcdef"), RULE.apply("hijkla"))
    assert max(answers[name].score for name in ("target_untouched", "shuffled_input")) <= 0.05
    assert answers["source_client"].score < answers["translated"].score


def test_the_other_client_has_another_rule_and_another_adapter(told: Told) -> None:
    name, tensors = story.other_client(told.data)
    own_name, _ = story.other_client(story.rule_data(story.OTHER_RULES[0]))

    assert name == story.OTHER_RULES[0].name != RULE.name
    assert own_name == story.OTHER_RULES[1].name
    assert any(not torch.equal(tensors[key], tensor) for key, tensor in told.translated.tensors.items())


@pytest.mark.slow
def test_a_private_run_states_no_more_than_its_budget() -> None:
    data = story.own_data(lines_of(RULE, 30))

    run = story.fine_tune_source(data, epsilon=2.0)

    assert run.privacy is not None
    assert 1.5 < run.privacy["epsilon"] <= 2.0
    assert run.privacy["delta"] <= 1e-5
    assert all(math.isfinite(float(tensor.sum())) for tensor in run.adapter.tensors.values())
