from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from huggingface_hub import constants

from gradtx_hf.errors import ConfigurationError, HubError
from gradtx_hf.hub import FoundTranslator, find, find_translators, suggest_translators
from gradtx_hf.playground.hub_server import FaultKind, HubServer
from tests.hub.found_cards import ALL, HOSTILE_TEXT, OTHER, SEEN, SOURCE, TARGET, measured, metadata, results
from tests.hubs import ALICE, BOB, add_repository


def put(hub: HubServer, name: str, values: dict[str, Any], *, is_private: bool = False) -> str:
    card = f"---\n{yaml.safe_dump(values)}---\n# {name}\n"
    return add_repository(hub, name, {"README.md": card.encode()}, is_private=is_private)


@pytest.fixture(autouse=True)
def _no_translators(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from a Hub without the translators of other tests, and let retries be quick."""
    for repository in hub.store.repositories("models"):
        if repository.owner == "finders":
            hub.store.delete(repository)
    monkeypatch.setattr(find, "WAITS", (0.0, 0.0))


def names(found: list[FoundTranslator]) -> list[str]:
    return [translator.repo_id for translator in found]


def test_what_a_card_states_is_found(hub: HubServer) -> None:
    commit = put(hub, "finders/translator", metadata(**{"model-index": measured(results(0.9, SEEN), results(0.5))}))

    (found,) = find_translators(SOURCE)

    assert (found.repo_id, found.source, found.target, found.commit) == ("finders/translator", SOURCE, TARGET, commit)
    assert (found.is_private, found.is_gated) == (False, False)
    assert found.measured is not None
    assert (found.measured.gain_recovered, found.measured.dataset) == (0.5, "unseen_tasks (3 clients)")
    assert (found.measured.metric, found.measured.score) == ("exact_match", 0.625)
    assert isinstance(found.last_modified, datetime)


def test_only_those_that_read_the_source_and_write_the_target_are_found(hub: HubServer) -> None:
    put(hub, "finders/fits", metadata())
    put(hub, "finders/elsewhere", metadata(target=OTHER))
    put(hub, "finders/backwards", metadata(source=TARGET, target=SOURCE))
    put(hub, "finders/untagged", metadata(tags=["gradtx_hf"]))
    put(hub, "finders/no-translator", metadata(gradtx_hf={"kind": "adapter"}))

    assert set(names(find_translators(SOURCE))) == {"finders/fits", "finders/elsewhere"}
    assert names(find_translators(SOURCE, TARGET)) == ["finders/fits"]
    assert names(find_translators(TARGET)) == ["finders/backwards"]
    assert find_translators(OTHER) == []


def test_the_order_is_measured_on_unseen_then_best(hub: HubServer) -> None:
    for name, index in {
        "finders/unmeasured": None,
        "finders/seen": measured(results(0.99, SEEN)),
        "finders/unseen-low": measured(results(-0.5)),
        "finders/all": measured(results(0.98, ALL)),
        "finders/unseen-high": measured(results(0.7), results(0.1, SEEN)),
        "finders/elsewhere": measured(results(5, "my_tasks")),
    }.items():
        put(hub, name, metadata(**({} if index is None else {"model-index": index})))

    order = [f"finders/{name}" for name in ("unseen-high", "unseen-low", "all", "seen", "elsewhere", "unmeasured")]
    assert names(find_translators(SOURCE)) == order
    assert names(find_translators(SOURCE, limit=2)) == order[:2]


def test_all_pages_are_read(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(hub, f"finders/translator-{number}", metadata())
    put(hub, "finders/translator-0", metadata(**{"model-index": measured(results(0.1))}))
    put(hub, "finders/translator-5", metadata())
    monkeypatch.setattr(find, "PAGE_SIZE", 2)

    assert len(find_translators(SOURCE)) == 6
    assert names(find_translators(SOURCE, limit=1)) == ["finders/translator-0"]


def test_what_is_left_out_is_said(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        put(hub, f"finders/translator-{number}", metadata())
    monkeypatch.setattr(find, "PAGE_SIZE", 1)
    monkeypatch.setattr(find, "MAX_PAGES", 2)

    assert len(find_translators(SOURCE)) == 2
    assert "more than 2 translators have the tags" in caplog.text


def test_private_ones_are_found_with_a_token_alone(hub: HubServer) -> None:
    put(hub, "finders/private", metadata(), is_private=True)

    (found,) = find_translators(SOURCE, token=ALICE)

    assert found.is_private
    assert find_translators(SOURCE) == []
    assert find_translators(SOURCE, token=BOB) == []


def test_one_hostile_card_does_not_hide_the_others(hub: HubServer) -> None:
    put(hub, "finders/good", metadata())
    put(
        hub, "finders/odd", metadata(self=1, ignore_metadata_errors=True, **{"model-index": "x"})
    )  # breaks the client's own
    put(hub, "finders/bad", metadata(gradtx_hf=HOSTILE_TEXT))

    assert set(names(find_translators(SOURCE))) == {"finders/good", "finders/odd"}


@pytest.mark.parametrize(
    "name",
    [
        "/srv/models/small",
        "./small",
        "",
        "a/b/c",
        "finders/small@main",
        "finders/sm all",
        "\x1b[31m",
        "hf_" + "a" * 34 + "/.",
        "é\n",
    ],
)
def test_what_is_no_id_is_refused_in_one_line_without_a_request(hub: HubServer, name: str) -> None:
    hub.faults.add("500")

    for act in (lambda: find_translators(name), lambda: find_translators(SOURCE, name)):
        with pytest.raises(ConfigurationError, match="expected an id on the Hub") as refused:
            act()
        assert str(refused.value).isprintable()
        assert "a" * 34 not in str(refused.value)


def test_a_folder_of_this_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "finders" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError, match="A folder of this machine"):
        find_translators("finders/small")


def test_other_arguments_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="got limit 0"):
        find_translators(SOURCE, limit=0)
    with pytest.raises(ConfigurationError, match="characters that no token has"):
        find_translators(SOURCE, token="hf_a\nb")


@pytest.mark.parametrize(
    ("kind", "saying"),
    [("403", "refuses the search"), ("500", "fails with HTTP 500"), ("503", "HTTP 503"), ("429", "429")],
)
def test_a_hub_that_fails_is_one_line(hub: HubServer, kind: FaultKind, saying: str) -> None:
    hub.faults.add(kind)

    with pytest.raises(HubError, match=saying) as refused:
        find_translators(SOURCE)

    assert "\n" not in str(refused.value)


def test_a_bad_token_is_one_line(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"refuses the search for translators \(HTTP 401\)") as refused:
        find_translators(SOURCE, token="hf_" + "c" * 34)

    assert "c" * 34 not in str(refused.value)


def test_a_failure_that_passes_is_got_over(hub: HubServer) -> None:
    put(hub, "finders/translator", metadata())
    hub.faults.add("500", "drop_response", times=2)

    assert names(find_translators(SOURCE)) == ["finders/translator"]


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:9")

    with pytest.raises(HubError, match=r"no connection to http://127\.0\.0\.1:9") as refused:
        find_translators(SOURCE)

    assert "secret" not in str(refused.value)


def test_offline_it_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        find_translators(SOURCE)


@pytest.mark.parametrize(
    ("answer", "saying"),
    [
        (httpx2.Response(200, text="<html>log in to the hotel's network</html>"), "not JSON"),
        (httpx2.Response(200, text="[" * 100_000), "not JSON"),
        (httpx2.Response(200, text='{"models": []}'), "got no list"),
    ],
)
def test_an_answer_of_something_else_is_one_line(
    monkeypatch: pytest.MonkeyPatch, answer: httpx2.Response, saying: str
) -> None:
    answer.request = httpx2.Request("GET", "http://hub/api/models")
    client = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
    monkeypatch.setattr(find, "get_session", lambda: client)

    with pytest.raises(HubError, match=saying):
        find_translators(SOURCE)


def test_the_token_goes_to_no_other_host_than_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        link = {} if len(asked) > 1 else {"Link": '<https://elsewhere.example/x?cursor=2>; rel="next"'}
        return httpx2.Response(200, json=[], headers=link)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(find, "get_session", lambda: client)

    find_translators(SOURCE, token=ALICE)

    assert [str(request.url).split("?")[0] for request in asked] == [f"{constants.ENDPOINT}/api/models"] * 2
    assert asked[1].url.params["cursor"] == "2"


def test_suggestions_are_the_best_ids(hub: HubServer) -> None:
    for number in range(4):
        put(hub, f"finders/translator-{number}", metadata(**{"model-index": measured(results(number / 4))}))

    assert suggest_translators(SOURCE) == ["finders/translator-3", "finders/translator-2", "finders/translator-1"]


def _offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _unreachable(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def _senseless_address(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://[::1")


def _failing(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.add("500", path="/api/models")


def _slow(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.add("slow_download", path="/api/models", seconds=2.0)


@pytest.mark.parametrize("fault", [_offline, _unreachable, _senseless_address, _failing, _slow])
def test_suggestions_are_none_where_the_hub_does_not_answer_in_time(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[HubServer, pytest.MonkeyPatch], None],
) -> None:
    put(hub, "finders/translator", metadata())
    fault(hub, monkeypatch)
    started = time.monotonic()

    assert suggest_translators(SOURCE, seconds=0.3) == []

    assert time.monotonic() - started < 1.0
    assert caplog.text == ""


def test_a_local_path_is_not_told_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "get_session", lambda: pytest.fail("a request was made"))

    assert suggest_translators("/srv/secret/model") == []
