"""The app as it is served: every event by its name, what it keeps to itself, and many visitors at once."""

from __future__ import annotations

import concurrent.futures
import os
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import gradio.oauth
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from gradtx_hf.demo import app as demo_app
from gradtx_hf.demo import build_demo, examples, limits, story, story_handlers
from gradtx_hf.demo.story_handlers import OF_A_RULE
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground import TRANSLATOR_NAME, Rule, translator_path
from gradtx_hf.playground.hub_server import HubServer
from tests.demo.archives import adapter_zip, write_zip
from tests.demo.conftest import RULE
from tests.demo.serving import served
from tests.hubs import ALICE


EVENTS = {
    "answer", "ask", "check", "check_example", "check_first", "check_taken", "choose_data", "clear_story", "example",
    "fine_tune", "leaving", "privacy_cost", "private_lines", "push", "random_rule", "report", "take_adapter",
    "take_example", "translate", "translate_story",
}  # fmt: skip
NO_PRIVACY = 0


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    """Return the address of the served app."""
    with pytest.MonkeyPatch.context() as patch, served() as address:
        patch.setattr(story_handlers, "SECONDS_PER_BLOCK", 0)
        yield address


@pytest.fixture
def visitor(app: str) -> Iterator[Client]:
    """Return a visitor of the app."""
    client = Client(app, verbose=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def teller(app: str) -> Iterator[Client]:
    """Return a visitor who has fine-tuned."""
    client = Client(app, verbose=False)
    client.predict(OF_A_RULE, RULE.rearrangement, RULE.shift, "", NO_PRIVACY, api_name="/fine_tune")
    yield client
    client.close()


def tell_story(visitor: Client, rule: Rule) -> dict[str, object]:
    """Go through the story's events, and return what the last one says in numbers."""
    visitor.predict(OF_A_RULE, rule.rearrangement, rule.shift, "", NO_PRIVACY, api_name="/fine_tune")
    visitor.predict(api_name="/translate_story")
    numbers: dict[str, object] = visitor.predict("abcdef", api_name="/answer")[-1]
    return numbers


def test_every_event_has_a_name(visitor: Client) -> None:
    named = visitor.view_api(return_format="dict", print_info=False)

    assert {name.removeprefix("/") for name in named["named_endpoints"]} == EVENTS
    assert named["unnamed_endpoints"] == {}


def test_a_visitor_can_script_the_story(visitor: Client, teller: Client) -> None:
    rearrangement, shift = visitor.predict(api_name="/random_rule")
    assert "private lines" in visitor.predict(OF_A_RULE, rearrangement, shift, "", api_name="/private_lines")
    visitor.predict("Lines of my own", api_name="/choose_data")
    visitor.predict(api_name="/clear_story")
    assert "ε = 0.1" in visitor.predict(6, api_name="/privacy_cost")[0]

    shown, archive = teller.predict(api_name="/leaving")
    crossed = teller.predict(api_name="/translate_story")
    numbers = teller.predict("abcdef", api_name="/answer")[-1]
    asked = teller.predict("fedcba", api_name="/ask")[-1]

    assert "bytes" in shown
    assert "distance of the input" in crossed
    assert zipfile.is_zipfile(archive)
    assert numbers["exact_match"]["translated"] >= 0.95
    assert asked["answers"]["translated"] == [RULE.apply("fedcba")]


def test_a_visitor_can_script_an_example_and_go_on_with_it(visitor: Client) -> None:
    shown = visitor.predict(3, api_name="/example")
    archive, numbers = next(text for text in shown if str(text).endswith(".zip")), shown[-1]
    asked = visitor.predict("fedcba", api_name="/ask")[-1]

    assert zipfile.is_zipfile(archive)
    assert numbers["lines"] == asked["lines"] == examples.EXAMPLES[3].rule.name
    assert asked["answers"]["translated"] == [examples.EXAMPLES[3].rule.apply("fedcba")]
    with pytest.raises(AppError, match="got example 9, expected one of 0 to 3"):
        visitor.predict(9, api_name="/example")


def test_a_visitor_can_script_an_example_of_the_other_tab(visitor: Client) -> None:
    (taken,) = visitor.predict(0, api_name="/take_example")
    *_, checked = visitor.predict("", [handle_file(taken)], None, TRANSLATOR_NAME, "", api_name="/check_example")

    assert checked["adapters"][0]["fits"]


def test_a_visitor_can_script_a_translation_and_a_push(visitor: Client, hub: HubServer, tmp_path: Path) -> None:
    uploaded = [handle_file(str(adapter_zip(tmp_path / "mine.zip", translator_path() / "source_init")))]
    submission = ("", uploaded, None, TRANSLATOR_NAME, "")

    checked = [
        visitor.predict(*submission, api_name=f"/{name}")[-1] for name in ("check", "check_first", "check_taken")
    ]
    _, archive, report = visitor.predict(*submission, "mean", "", api_name="/translate")
    pushed = visitor.predict("alice/from-the-app", False, ALICE, api_name="/push")

    assert all(values["adapters"][0]["fits"] for values in checked)
    assert report["adapters"][0]["name"] == "mine"
    assert "Published" in pushed
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    assert load_adapter(tmp_path / "translated_adapter").layout.num_blocks == 4


def test_a_visitor_can_take_the_storys_adapter_over_and_read_reports(teller: Client) -> None:
    (taken,) = teller.predict(api_name="/take_adapter")

    assert zipfile.is_zipfile(taken)
    assert "Unseen tasks" in teller.predict("quickstart_seed_0", api_name="/report")[0]


def test_a_refusal_is_one_line(visitor: Client, tmp_path: Path) -> None:
    bad = [handle_file(str(write_zip(tmp_path / "bad.zip", {"../x": b""})))]

    with pytest.raises(AppError, match=r"^archive 'bad\.zip' names a file outside itself [^\n]*$"):
        visitor.predict("", bad, None, TRANSLATOR_NAME, "", "mean", "", api_name="/translate")


def test_files_of_the_machine_stay_there(app: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.zip"
    adapter_zip(secret, translator_path() / "source_init")
    named = [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}]

    for path in (secret, "/etc/passwd", Path(__file__)):
        assert httpx.get(f"{app}gradio_api/file={path}").status_code in (403, 404)
    call = f"{app}gradio_api/call/check"
    event = httpx.post(call, json={"data": ["", named, None, TRANSLATOR_NAME, ""]}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=30).text
    assert answer.startswith("event: error")
    assert "fits" not in answer


def test_an_upload_that_is_too_large_is_refused(app: str) -> None:
    files = {"files": ("large.zip", bytes(limits.MAX_UPLOAD_BYTES + 1))}

    assert httpx.post(f"{app}gradio_api/upload", files=files, timeout=60).status_code == 413


def test_visits_are_apart(teller: Client, visitor: Client) -> None:
    assert teller.predict(api_name="/leaving")

    for name in ("/leaving", "/translate_story", "/take_adapter"):
        with pytest.raises(AppError, match="Run the story first"):
            visitor.predict(api_name=name)


def test_on_a_space_visitors_log_in_and_type_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(demo: gr.Blocks) -> tuple[bool, bool]:
        blocks = demo.blocks.values()
        (token,) = [block for block in blocks if isinstance(block, gr.Textbox) and block.type == "password"]
        return bool(token.visible), any(isinstance(block, gr.LoginButton) for block in blocks)

    assert shown(build_demo()) == (True, False)
    for name, value in {"SYSTEM": "spaces", "SPACE_ID": "owner/translate-adapter"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("gradio.block_function.spaces", None)  # else it is the repository's folder
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"):
        monkeypatch.setattr(gradio.oauth, name, "http://127.0.0.1/of-the-space")  # read when gradio is imported
    assert shown(build_demo()) == (False, True)


def test_old_files_are_to_be_swept_away_and_nothing_is_counted() -> None:
    demo = build_demo()

    assert demo.delete_cache == (limits.SWEEP_SECONDS, limits.KEPT_SECONDS)
    assert demo.analytics_enabled is False


@pytest.mark.slow
def test_what_a_visitor_uploaded_and_got_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    for name in ("SWEEP_SECONDS", "KEPT_SECONDS"):
        monkeypatch.setattr(demo_app, name, 2)

    with served() as address:
        visitor = Client(address, verbose=False, download_files=False)
        uploaded = [handle_file(str(adapter_zip(tmp_path / "mine.zip", translator_path() / "source_init")))]
        visitor.predict("", uploaded, None, TRANSLATOR_NAME, "", "mean", "", api_name="/translate")
        there = sorted(path.name for path in cache.rglob("*.zip"))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and list(cache.rglob("*.zip")):
            time.sleep(0.5)
        visitor.close()

    assert there == ["mine.zip", "translated_adapter.zip"]
    assert list(cache.rglob("*.zip")) == []


@pytest.mark.slow
def test_eight_visitors_at_once_are_all_served_and_see_their_own(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = sorted(story.known_rules())[:: len(story.known_rules()) // 8][:8]
    rules = [Rule(name.rpartition("+")[0], int(name.rpartition("+")[2])) for name in split]
    clients = [Client(app, verbose=False) for _ in rules]
    tell_story(clients[0], rules[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()

    with concurrent.futures.ThreadPoolExecutor(len(rules)) as pool:
        numbers = list(pool.map(tell_story, clients, rules))

    assert [values["lines"] for values in numbers] == split
    assert [values["wanted"] for values in numbers] == [[rule.apply("abcdef")] for rule in rules]
    archives = [client.predict(api_name="/take_adapter")[0] for client in clients]
    assert len({Path(archive).read_bytes() for archive in archives}) == len(rules)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 512, f"{grown:.0f} MB more for eight visitors"
    assert time.perf_counter() - start < 240, os.getloadavg()
