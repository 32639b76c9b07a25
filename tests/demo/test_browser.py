"""The app in a real browser: the story told in time, a bad archive refused, no stranger asked, and screenshots.

Needs a Chromium (``apt-get install chromium``), and ``pip install playwright axe-playwright-python``; skipped, with the
reason, without. Screenshots go to ``$GRADTX_SCREENSHOTS``, or a folder of pytest's.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradtx_hf.demo import story
from gradtx_hf.demo.examples import EXAMPLES
from gradtx_hf.demo.privacy_cost import BUDGETS
from tests.demo.archives import write_zip
from tests.demo.serving import served


if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VIEWS = {"desktop": (1280, 900), "phone": (390, 844)}
NUM_LINES = 8192
Record = Callable[[str], None]
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, served() as address:
        patch.setattr(story, "NUM_LINES", NUM_LINES)  # as many as visitors have, unlike in other tests
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("GRADTX_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def record(capsys: pytest.CaptureFixture[str]) -> Record:
    """Return what prints a measured number, for who reads the log."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", list(VIEWS))
def test_the_story_is_told_within_a_minute(
    app: str, browser: Browser, shots: Path, record: Record, view: str, theme: str
) -> None:
    width, height = VIEWS[view]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))

    page.goto(f"{app}?__theme={theme}")
    page.get_by_role("button", name="Run the story").wait_for()
    painted = page.evaluate(FIRST_PAINT)
    page.screenshot(path=shots / f"{view}-{theme}-start.png")
    start = time.perf_counter()
    page.get_by_role("button", name="Run the story").click()
    page.get_by_text("with the translated adapter,").wait_for(timeout=60_000)
    seconds = time.perf_counter() - start
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / f"{view}-{theme}-answers.png")
    page.screenshot(path=shots / f"{view}-{theme}-story.png", full_page=True)
    widest = page.evaluate("() => document.documentElement.scrollWidth")
    for tab in ("Translate your own", "Results"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)
        page.screenshot(path=shots / f"{view}-{theme}-{tab.split()[0].lower()}.png", full_page=True)
        widest = max(widest, page.evaluate("() => document.documentElement.scrollWidth"))
    context.close()

    record(f"{view}, {theme}: painted after {painted:.0f} ms, told in {seconds:.1f} s, {len(requests)} requests")
    assert painted < 3000
    assert seconds < 60
    assert widest <= width, "the page scrolls sideways"
    assert [url for url in requests if not url.startswith((app, "data:", "blob:"))] == []


def test_an_example_shows_at_once(app: str, browser: Browser, record: Record) -> None:
    page = browser.new_page()
    page.goto(app)
    page.get_by_role("button", name=EXAMPLES[2].label).wait_for()

    start = time.perf_counter()
    page.get_by_role("button", name=EXAMPLES[2].label).click()
    page.get_by_text("with the translated adapter,").wait_for(timeout=10_000)
    page.get_by_text("ε = 0.1", exact=True).first.wait_for()
    seconds = time.perf_counter() - start
    page.close()

    record(f"an example shown in {seconds:.1f} s")
    assert seconds < 5


def test_the_privacy_slider_is_moved_by_keyboard_and_says_what_it_costs(app: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(app)
    slider = page.get_by_role("slider", name="Differential privacy")
    slider.wait_for()

    said = [page.locator(".gx-chosen").inner_text()]
    for key in ("ArrowRight", "ArrowRight", "End"):
        slider.press(key)
        label = list(BUDGETS)[int(slider.input_value())]
        page.locator(".gx-epsilon", has_text=f"ε = {label}").wait_for(timeout=5000)
        said.append(page.locator(".gx-chosen").inner_text())
    page.close()

    assert "no privacy" in said[0]
    assert [text.split("\n")[0] for text in said[1:]] == ["ε = 8", "ε = 4", "ε = 0.1"]
    assert all("points" in text for text in said[1:])


def test_a_bad_archive_shows_one_line(app: str, browser: Browser, shots: Path, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(app)
    page.get_by_role("tab", name="Translate your own").click()

    page.locator("input[type=file]").first.set_input_files(write_zip(tmp_path / "bad.zip", {"../x.json": b"{}"}))
    page.get_by_text("archive 'bad' ").or_(page.get_by_text("names a file outside itself")).first.wait_for()
    page.screenshot(path=shots / "bad-archive-checked.png")
    page.get_by_role("button", name="Translate", exact=True).click()
    toast = page.get_by_role("status").filter(has_text="names a file outside itself")
    toast.wait_for()
    page.screenshot(path=shots / "bad-archive-refused.png")

    assert "Traceback" not in page.content()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_violation(app: str, browser: Browser, theme: str) -> None:
    page = browser.new_page(color_scheme=theme)
    page.goto(f"{app}?__theme={theme}")
    page.get_by_role("button", name="Run the story").click()
    page.get_by_text("with the translated adapter,").wait_for(timeout=60_000)
    found = []
    for tab in ("Story", "Translate your own", "Results"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(700)
        found += [
            f"{tab}: {violation['id']}: {node['html'][:160]}"
            for violation in axe.Axe().run(page).response["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
    page.close()

    assert found == []


def test_the_story_can_be_told_by_keyboard_alone(app: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(app)
    page.get_by_role("button", name="Run the story").wait_for()
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => (document.activeElement.innerText || document.activeElement.ariaLabel || '')"))
        if seen[-1].startswith("Run the story"):
            break
    order = [next((i for i, text in enumerate(seen) if text.startswith(name)), -1) for name in ("Story", "Draw", "Run")]

    page.keyboard.press("Enter")
    page.get_by_text("with the translated adapter,").wait_for(timeout=60_000)
    page.close()

    assert order == sorted(order)
    assert min(order) >= 0
