from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from gradtx_hf.hub.cards import with_base_model
from gradtx_hf.playground import translator_path
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator
from tests.cli.conftest import Finished
from tests.hubs import ALICE, add_repository


Gradtx = Callable[..., Finished]
REPORT = Path(__file__).parents[2] / "examples" / "results" / "quickstart_seed_0.json"
UNSEEN = json.loads(REPORT.read_text())["summary"]["unseen"]["methods"]["translated"]
GAIN, SCORE = UNSEEN["gain_recovered"]["value"], UNSEEN["score"]["mean"]
SOURCE, TARGET = "cli-find/small", "cli-find/large"
MEASURED, UNMEASURED = "cli-find/measured", "cli-find/unmeasured"


@pytest.fixture
def commits(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Publish a translator in private with its results, and without them in public; alice is logged in."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    for repository in hub.store.repositories("models"):
        if repository.owner == "cli-find":
            hub.store.delete(repository)
    embedded = PeftTranslator.from_pretrained(translator_path())
    translator = replace(
        embedded,
        source_init=with_base_model(embedded.source_init, SOURCE),
        target_init=with_base_model(embedded.target_init, TARGET),
    )
    return {
        MEASURED: translator.push_to_hub(MEASURED, report=REPORT).commit,
        UNMEASURED: translator.push_to_hub(UNMEASURED, private=False).commit,
    }


def put_card(hub: HubServer, name: str, metadata: dict[str, Any]) -> None:
    card = {"tags": ["gradtx-translator"], "base_model": [SOURCE, TARGET], **metadata}
    add_repository(hub, name, {"README.md": f"---\n{yaml.safe_dump(card)}---\n".encode()})


def test_the_table_has_the_measured_one_first_and_ends_with_the_next_command(
    gradtx: Gradtx, commits: dict[str, str]
) -> None:
    finished = gradtx("find", "--source", SOURCE)

    assert finished.status == 0
    head, first, second = finished.out.splitlines()
    assert head.split()[:2] == ["repository", "source"]
    pair = f"{SOURCE} → {TARGET}"
    cells = ["Unseen tasks (10 clients)", f"exact_match {SCORE:.3f}", "private"]
    assert first.startswith(f"{MEASURED}    {pair}  {GAIN:.4f} ")
    assert [cell in first for cell in cells] == [True] * 3
    assert second.startswith(f"{UNMEASURED}  {pair}  not measured")
    assert second.endswith("public")
    assert first.index("Unseen") == head.index("measured on")
    assert "what the cards state" in finished.err
    assert f"next: gradtx translate ADAPTER --translator {MEASURED} --output-dir" in finished.err


def test_json_is_all_that_is_printed(gradtx: Gradtx, commits: dict[str, str]) -> None:
    first, second = json.loads(gradtx("find", "--source", SOURCE, "--target", TARGET, "--json").out)
    (only,) = json.loads(gradtx("find", "--source", SOURCE, "--limit", "1", "--json").out)

    assert only == first
    assert (first["repo_id"], first["commit"]) == (MEASURED, commits[MEASURED])
    assert (first["source"], first["target"], first["private"], first["gated"]) == (SOURCE, TARGET, True, False)
    assert first["measured"] == {
        "dataset": "Unseen tasks (10 clients)",
        "dataset_type": "unseen_tasks",
        "gain_recovered": pytest.approx(GAIN, abs=1e-6),
        "metric": "exact_match",
        "score": pytest.approx(SCORE),
    }
    assert (second["repo_id"], second["measured"]) == (UNMEASURED, None)
    assert second["last_modified"] >= first["last_modified"]


def test_without_a_token_private_ones_are_not_listed(
    gradtx: Gradtx, commits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    (only,) = json.loads(gradtx("find", "--source", SOURCE, "--json").out)

    assert only["repo_id"] == UNMEASURED


def test_none_is_said_and_is_no_error(gradtx: Gradtx, commits: dict[str, str], hub: HubServer) -> None:
    finished = gradtx("find", "--source", SOURCE, "--target", "cli-find/other")
    as_json = gradtx("find", "--source", "cli-find/other", "--json")

    assert (finished.status, finished.out) == (0, "")
    assert finished.err == (
        f"no translator for '{SOURCE}' → 'cli-find/other' at {hub.url}. Train one: gradtx curate, gradtx train\n"
    )
    assert (as_json.status, json.loads(as_json.out)) == (0, [])


def test_a_hostile_card_changes_nothing_in_the_terminal(
    gradtx: Gradtx, commits: dict[str, str], hub: HubServer
) -> None:
    models = {"gradtx_hf": {"source_base_model": {"id": SOURCE}, "target_base_model": {"id": TARGET}}}
    gain = {"type": "gain_recovered", "value": 0.9}
    evil = "\x1b[2J\x1b]0;owned\x07\n\u202ereversed\r" + "x" * 10_000
    dataset = {"type": "unseen_tasks", "name": evil}
    score = {"type": evil, "name": f"{evil}, translated", "value": 1}
    put_card(
        hub, "cli-find/evil", {**models, "model-index": [{"results": [{"dataset": dataset, "metrics": [gain, score]}]}]}
    )
    put_card(hub, "cli-find/nonsense", {**models, "model-index": 3, "tags": ["gradtx-translator", evil]})
    put_card(hub, "cli-find/no-names", {"gradtx_hf": {"source_base_model": evil, "target_base_model": {"id": evil}}})

    finished = gradtx("find", "--source", SOURCE)

    lines = finished.out.splitlines()
    found = [line.split()[0] for line in lines[1:]]
    assert found == ["cli-find/evil", MEASURED, "cli-find/nonsense", UNMEASURED]
    assert all(line.isprintable() and len(line) < 600 for line in lines)
    assert all(line.isprintable() for line in finished.err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (("--source", "/srv/models/small"), "expected an id on the Hub"),
        (("--source", "\x1b[31mred"), "expected an id on the Hub"),
        (("--source", SOURCE, "--target", "a b"), "got target model 'a b'"),
        (("--source", SOURCE, "--limit", "0"), "expected at least 1"),
    ],
)
def test_bad_input_is_one_line(gradtx: Gradtx, arguments: tuple[str, ...], saying: str) -> None:
    error = gradtx("find", *arguments).error

    assert saying in error
    assert error.isprintable()


def test_no_hub_is_one_line(gradtx: Gradtx, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "c" * 34)
    assert "HTTP 401" in gradtx("find", "--source", SOURCE).error

    monkeypatch.setenv("HF_TOKEN", ALICE)
    hub.faults.add("403")
    assert "HTTP 403" in gradtx("find", "--source", SOURCE).error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in gradtx("find", "--source", SOURCE, "--json").error


def test_a_source_must_be_given(gradtx: Gradtx) -> None:
    assert gradtx("find").status == 2
