"""The events' functions, called as plain functions: what they show, and how they refuse."""

from __future__ import annotations

import re
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from huggingface_hub import HfApi, constants

from gradtx_hf.demo import limits, story_handlers, translate_handlers
from gradtx_hf.demo.drawing import facts, heat_map, note, table
from gradtx_hf.demo.limits import one_line_errors
from gradtx_hf.demo.privacy_cost import BUDGETS, draw_cost, mean_scores
from gradtx_hf.demo.repositories import forget_own_login
from gradtx_hf.demo.story import known_rules, rule_data
from gradtx_hf.demo.story_handlers import OF_A_RULE, OWN, Visit
from gradtx_hf.demo.uploads import zip_adapter
from gradtx_hf.errors import AdapterError, ConfigurationError
from gradtx_hf.playground import TARGET_NAME, TRANSLATOR_NAME, Rule, split_rules
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import TranslatedAdapter
from tests.demo.archives import write_zip
from tests.demo.conftest import RULE, Told
from tests.hubs import ALICE


NOTHING: dict[str, Any] = {"files": None, "translator": TRANSLATOR_NAME, "typed_token": ""}


def refusal(error: pytest.ExceptionInfo[gr.Error]) -> str:
    text = str(error.value.message)
    assert "\n" not in text
    return text


def visit_of(told: Told) -> Visit:
    return Visit(told.data, next(iter(BUDGETS)), told.run, told.translated)


def test_private_lines_tell_whether_the_provider_knows_the_rule() -> None:
    split = split_rules("full", seed=0)
    known, new = split.seen[0], split.report[0]

    assert "A rule the provider knows" in story_handlers.show_lines(OF_A_RULE, known.rearrangement, known.shift, "")
    assert "A rule that is new" in story_handlers.show_lines(OF_A_RULE, new.rearrangement, new.shift, "")
    assert {known.name} <= known_rules()
    assert new.name not in known_rules()


@pytest.mark.parametrize(("rearrangement", "shift"), [("rotate_9", 1), ("reverse", 12), ("reverse", 1.5), ("", -1)])
def test_a_rule_that_is_none_is_refused(rearrangement: str, shift: float) -> None:
    with pytest.raises(gr.Error) as error:
        story_handlers.show_lines(OF_A_RULE, rearrangement, shift, "")

    assert "there is no rule" in refusal(error)


def test_a_random_rule_is_a_rule() -> None:
    assert Rule(*story_handlers.random_rule()).apply("abcdef")


def test_the_story_needs_its_steps_in_order() -> None:
    for event in (story_handlers.show_leaving, story_handlers.translate, story_handlers.take_adapter):
        with pytest.raises(gr.Error) as error:
            next(iter(event(Visit())))
        assert "Run the story first" in refusal(error)
    with pytest.raises(gr.Error) as error:
        story_handlers.answer(Visit(), "abcdef")
    assert "Run the story first" in refusal(error)


def test_what_leaves_is_the_adapter_and_nothing_else(told: Told, tmp_path: Path) -> None:
    events = story_handlers.show_leaving(visit_of(told))

    shown, archive = next(events)
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    rest = list(events)

    assert f"{told.run.adapter.num_bytes:,}" in shown
    assert names == ["client_adapter/adapter_config.json", "client_adapter/adapter_model.safetensors"]
    assert rest == []
    assert not Path(archive).exists()


def test_blocks_come_one_by_one(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_handlers, "SECONDS_PER_BLOCK", 0)

    shown = [text for _, text in story_handlers.translate(visit_of(told))]

    assert [text.count("--heat") for text in shown] == [4, 8, 12, 16, 16]
    assert "distance of the input" in shown[-1]


def test_answers_are_shown_with_every_control(told: Told) -> None:
    visit, shown, runs, numbers = story_handlers.answer(visit_of(told), "abcdef")

    assert numbers["wanted"] == [RULE.apply("abcdef")]
    assert numbers["answers"]["translated"] == (RULE.apply("abcdef"),)
    assert numbers["exact_match"].keys() == {"source_client", "target_untouched", "shuffled_input", "translated"}
    assert f"✓ {RULE.apply('abcdef')}" in shown
    assert shown.count("<li") == 4
    assert RULE.name in runs
    assert visit.runs == ((RULE.name, "∞", *[numbers["exact_match"][n] for n in ("source_client", "translated")]),)


def test_own_lines_have_no_known_answer(told: Told) -> None:
    own = replace(visit_of(told), data=replace(told.data, rule=None, name="your own lines"))

    _, shown, _, numbers = story_handlers.answer(own, "abcdef")

    assert numbers["wanted"] is None
    assert "What the rule wants" not in shown


@pytest.mark.parametrize("level", [-1, 7, 1.5])
def test_a_privacy_level_that_is_none_is_refused(level: float) -> None:
    for event in (
        lambda: story_handlers.fine_tune(Visit(), OWN, "reverse", 1, "", level),
        lambda: story_handlers.show_cost(level),
    ):
        with pytest.raises(gr.Error) as error:
            event()

        assert f"got privacy level {level}, expected a whole number from 0 (no privacy) to 6" in refusal(error)


def test_the_cost_of_privacy_is_shown_for_every_budget() -> None:
    shown = draw_cost()

    assert shown.count("<li") == len(BUDGETS)
    shares = [int(share) for share in re.findall(r"(\d+)% known", shown)]
    assert shares[0] > 90 > shares[-1]


@pytest.mark.parametrize("level", range(len(BUDGETS)))
def test_the_chosen_budget_is_named_and_its_cost_is_the_measured_one(level: int) -> None:
    label, means = list(mean_scores().items())[level]

    chosen, cost = story_handlers.show_cost(level)

    assert f'<p class="gx-epsilon">ε = {label}' in chosen
    assert ("no privacy" in chosen) == (level == 0)
    for seen in (True, False):
        lost = round(100 * means[seen]) - round(100 * mean_scores()["∞"][seen])
        assert f"{means[seen]:.0%} right" + ("" if level == 0 else f" ({lost:+} points)") in chosen
    assert cost.count('<li class="gx-main">') == 1
    assert f'<li class="gx-main"><span class="gx-label">ε = {label}</span>' in cost


def test_an_adapter_of_ones_own_is_checked_and_translated(told: Told, tmp_path: Path) -> None:
    events = story_handlers.take_adapter(visit_of(told))
    (archive,) = next(events)

    shown, numbers = translate_handlers.check("", [archive], **NOTHING)
    translations = translate_handlers.translate("", [archive], **NOTHING, aggregation="mean", weights="")
    translated, told_of, packed, report = next(translations)
    with zipfile.ZipFile(packed) as opened:
        names = opened.namelist()

    assert numbers["adapters"][0]["fits"]
    assert "story_adapter" in shown
    assert TARGET_NAME in told_of
    assert report == translated.report
    assert sorted(names) == [
        f"translated_adapter/{name}"
        for name in ("adapter_config.json", "adapter_model.safetensors", "translation.json")
    ]


def test_a_bad_archive_is_one_line(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bad.zip", {"../adapter_config.json": b"{}"})

    with pytest.raises(gr.Error) as error:
        next(translate_handlers.translate("", [str(archive)], **NOTHING, aggregation="mean", weights=None))

    assert "archive 'bad.zip' names a file outside itself" in refusal(error)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"aggregation": "best"}, "best"), ({"weights": "a,b"}, "expected numbers"), ({"weights": "1,2"}, "weights")],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, str], expected: str, told: Told, tmp_path: Path
) -> None:
    adapter = told.run.adapter
    archive = zip_adapter(tmp_path / "mine.zip", adapter.config, adapter.tensors)
    values = {"aggregation": "mean", "weights": ""} | settings

    with pytest.raises(gr.Error) as error:
        next(translate_handlers.translate(None, [str(archive)], **NOTHING, **values))

    assert expected in refusal(error)


def test_a_push_goes_to_the_visitors_repository_as_the_visitor(
    hub: HubServer, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", constants.HF_HUB_DISABLE_IMPLICIT_TOKEN)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    forget_own_login()

    with pytest.raises(gr.Error) as error:
        translate_handlers.push(told.translated, "alice/mine", False, "")
    assert "got no token" in refusal(error)
    with pytest.raises(gr.Error) as error:
        translate_handlers.push(None, "alice/mine", False, ALICE)
    assert "Translate one first" in refusal(error)

    shown = translate_handlers.push(told.translated, " alice/mine ", False, ALICE)

    assert "Published" in shown
    assert ALICE not in shown
    info = HfApi(token=ALICE).model_info("alice/mine")
    assert info.private
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.rfilename for file in info.siblings or []}


def test_a_login_goes_before_a_typed_token(hub: HubServer, told: Told) -> None:
    login = gr.OAuthToken(token=ALICE, scope="", expires_at=0)

    assert "Published" in translate_handlers.push(told.translated, "alice/by-login", False, "hf_wrong", login)


def test_of_a_login_a_name_alone_is_the_visitors_own(hub: HubServer, told: Told) -> None:
    login = gr.OAuthToken(token=ALICE, scope="", expires_at=0)
    profile = gr.OAuthProfile(dict.fromkeys(("name", "preferred_username", "profile", "picture"), "alice"))

    assert "alice/by-name" in translate_handlers.push(told.translated, "by-name", False, "", login, profile)
    with pytest.raises(gr.Error) as error:
        translate_handlers.push(told.translated, "by-name", False, ALICE)
    assert "by-name" in refusal(error)


def test_examples_of_ones_own_adapters_show_what_fits_and_what_does_not() -> None:
    verdicts = []
    for index in range(len(translate_handlers.EXAMPLES)):
        events = translate_handlers.take_example(index)
        _, numbers = translate_handlers.check("", next(events), **NOTHING)
        verdicts.append([adapter["fits"] for adapter in numbers["adapters"]])
        assert list(events) == []

    assert verdicts == [[True], [True, True], [False]]
    with pytest.raises(gr.Error) as error:
        next(translate_handlers.take_example(3))
    assert "got example 3" in refusal(error)


def test_nothing_of_a_stranger_becomes_markup(told: Told, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    archive = write_zip(tmp_path / f"{evil}.zip", {"adapter_config.json": b"{}"})

    shown, _ = translate_handlers.check("", [str(archive)], **NOTHING)
    drawn = facts({evil: evil}) + table(evil, [evil], [[(evil, ""), (evil, "")]]) + note(evil)
    drawn += heat_map(evil, told.run.adapter.layout, dict.fromkeys(told.run.adapter.tensors, 1.0))

    assert "<img" not in shown + drawn
    assert "&lt;img" in shown


def test_an_error_of_ours_is_one_line_and_any_other_tells_nothing() -> None:
    with pytest.raises(gr.Error) as error, one_line_errors():
        raise AdapterError("this adapter\nis no good")
    assert refusal(error) == "this adapter is no good"

    with pytest.raises(gr.Error) as error, one_line_errors():
        raise KeyError("/home/somebody/secret")
    assert refusal(error).startswith("this failed on the server's side (KeyError)")
    assert "secret" not in refusal(error)


def test_work_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.05)
    ended = threading.Event()

    with pytest.raises(ConfigurationError, match=r"this takes more than 0\.05 s"):
        limits.within_time(lambda: ended.wait(5))
    ended.set()

    assert limits.within_time(lambda: "done") == "done"


def test_a_translation_shows_its_warnings(told: Told) -> None:
    warned = TranslatedAdapter(
        told.translated.peft_config, told.translated.tensors, told.translated.report | {"warnings": ["<far> away"]}
    )

    assert "Warning: &lt;far&gt; away" in translate_handlers.draw_translation(warned)


def test_lines_of_a_rule_do_not_change_from_visit_to_visit() -> None:
    assert rule_data(RULE) == rule_data(RULE)
