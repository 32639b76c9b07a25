"""Pushes of every kind while one request in five fails: each is done or refused in one line, and no commit is half one.

Every push has a number, which its weights, its training record or its card carry: a commit that mixed two pushes would
be seen. Back-off is not waited for, but what would have been waited is looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradtx_hf.errors import GradTxError
from gradtx_hf.hub import Published, resolve_folder
from gradtx_hf.hub.retry import LONGEST_WAIT
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground.hub_server import FaultKind, HubServer
from gradtx_hf.playground.hub_server.blobs import git_blob_id, lfs_pointer
from gradtx_hf.playground.hub_server.repository import Commit, Repository
from gradtx_hf.translation import PeftTranslator, TranslatedAdapter
from tests.hubs import ALICE
from tests.translation.hub_pair import HubPair, put_pair_on_hub
from tests.translation.pair import make_pair, save_client


KINDS: tuple[FaultKind, ...] = (
    "500",
    "503",
    "429",
    "drop_upload",
    "drop_response",
    "drop_download",
    "slow_download",
)
RATE = 0.2
RATE_OF_A_BAD_HOUR = 0.65
"""What every tenth push meets: at the usual rate nearly all succeed in the end."""
SECONDS = 0.01
"""What a slow answer takes."""
PUSHES_PER_REPOSITORY = 30
"""New repositories are made under faults too."""
PUSHED = re.compile(r"org/(translator|adapter)-\d+")


@dataclass
class Story:
    """What came of the pushes.

    Attributes:
        published: Number of the push to its commit.
        refused: Number of the push to what was said.
    """

    published: dict[int, Published] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """What is pushed: a translator, and what it makes of a client's adapter."""

    pair: HubPair
    translated: TranslatedAdapter

    def push(self, number: int) -> Published:
        """Push by turns new weights of a translator, another record and card of the same weights, an adapter."""
        generation = number // PUSHES_PER_REPOSITORY
        if number % 3 == 2:
            return self.adapter(number).push_to_hub(f"org/adapter-{generation}")
        return self.translator(number).push_to_hub(f"org/translator-{generation}")

    def translator(self, number: int) -> PeftTranslator:
        """Return the translator of a push: target_init and the record say which it is."""
        init = self.pair.translator.target_init
        changed = replace(init, tensors={name: tensor + number // 3 for name, tensor in init.tensors.items()})
        training = {"arguments": {"seed": number}}
        return replace(self.pair.translator, target_init=changed, training=training)

    def adapter(self, number: int) -> TranslatedAdapter:
        """Return the adapter of a push: tensors and report say which it is."""
        tensors = {name: tensor + number for name, tensor in self.translated.tensors.items()}
        return replace(self.translated, tensors=tensors, report=self.translated.report | {"seconds": number})


@pytest.fixture
def material(hub: HubServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Material:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    folder = tmp_path_factory.mktemp("pair")
    pair = make_pair(folder)
    on_hub = put_pair_on_hub(hub, pair)
    client = on_hub.client(save_client(pair, folder / "client", seed=0))
    return Material(on_hub, on_hub.translator.translate(client))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nothing wait, neither us nor huggingface_hub, and return what would have been waited."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture(autouse=True)
def _no_repositories(hub: HubServer) -> Iterator[None]:
    yield
    for repository in repositories(hub):
        hub.store.delete(repository)


def test_fifteen_pushes_under_faults(hub: HubServer, material: Material, waits: list[float], tmp_path: Path) -> None:
    story = push_under_faults(hub, material.push, num_pushes=15)

    check_story(hub, story, waits)
    check_commits(hub, material, tmp_path)


@pytest.mark.long  # as many loads as pushes
def test_two_hundred_and_ten_pushes_under_faults(
    hub: HubServer, material: Material, waits: list[float], tmp_path: Path
) -> None:
    story = push_under_faults(hub, material.push, num_pushes=210)

    check_story(hub, story, waits)
    check_commits(hub, material, tmp_path)
    assert story.refused
    assert len([number for number in story.refused if not is_in_a_bad_hour(number)]) <= 4  # of 189


def push_under_faults(hub: HubServer, push: Callable[[int], Published], *, num_pushes: int) -> Story:
    """Push again and again, each time with other faults; any error that is not ours ends the test."""
    story = Story()
    for number in range(num_pushes):
        rate = RATE_OF_A_BAD_HOUR if is_in_a_bad_hour(number) else RATE
        hub.faults.add(*KINDS, probability=rate, seed=number, seconds=SECONDS)
        try:
            story.published[number] = push(number)
        except GradTxError as error:
            story.refused[number] = str(error)
        hub.faults.clear()
    return story


def is_in_a_bad_hour(number: int) -> bool:
    return number % 10 == 9


def check_story(hub: HubServer, story: Story, waits: list[float]) -> None:
    """Check what was said: one line, no token, and true; every wait within its bounds."""
    commits = {number_of(hub, commit): commit.sha for _, commit in commits_of(hub)}
    for number, said in story.refused.items():
        assert "\n" not in said
        assert "hf_" not in said
        assert "Nothing was written" not in said or number not in commits, said
    assert {number: published.commit for number, published in story.published.items()}.items() <= commits.items()
    assert all(published.is_changed for published in story.published.values())
    assert waits
    assert all(0 <= seconds <= LONGEST_WAIT for seconds in waits)


def check_commits(hub: HubServer, material: Material, cache: Path) -> None:
    """Check that every commit of every repository is one push, all of it, and loads; that none was made twice."""
    numbers: dict[str, list[int]] = {}
    for repository, commit in commits_of(hub):
        check_contents(hub, commit)
        number = number_of(hub, commit)
        if "translator" in repository.repo_id:
            loaded = PeftTranslator.from_pretrained(repository.repo_id, revision=commit.sha, cache_dir=cache)
            expected = material.translator(number)
            assert_equal(loaded.target_init.tensors, expected.target_init.tensors)
            assert_equal(loaded.source_init.tensors, expected.source_init.tensors)
            assert_equal(loaded.parts[""].state_dict(), expected.parts[""].state_dict())
            assert f"| `seed` | `{number}` |" in content_of(hub, commit, "README.md").decode()
        else:
            resolved = resolve_folder(repository.repo_id, revision=commit.sha, cache_dir=cache)
            assert_equal(load_adapter(resolved.path).tensors, material.adapter(number).tensors)
        numbers.setdefault(repository.repo_id, []).append(number)
    for made in numbers.values():
        assert made == sorted(set(made))


def check_contents(hub: HubServer, commit: Commit) -> None:
    """Check that the Hub has every file's content, and that it is the right one."""
    for entry in commit.files.values():
        content = hub.store.blobs.read(entry.sha256)
        kept = lfs_pointer(entry.sha256, entry.size) if entry.is_lfs else content
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert (len(content), git_blob_id(kept)) == (entry.size, entry.oid)


def commits_of(hub: HubServer) -> list[tuple[Repository, Commit]]:
    """Return all commits of all repositories that were pushed to, oldest first, without the Hub's own first ones."""
    found = []
    for repository in repositories(hub):
        history = repository.history(repository.at("main"))
        assert len(history) == len(repository.commits)
        found += [(repository, commit) for commit in history[-2::-1]]
    return found


def repositories(hub: HubServer) -> list[Repository]:
    return [repository for repository in hub.store.repositories("models") if PUSHED.fullmatch(repository.repo_id)]


def number_of(hub: HubServer, commit: Commit) -> int:
    """Return the number of the push that a commit's record names."""
    if "training.json" in commit.files:
        return int(json.loads(content_of(hub, commit, "training.json"))["arguments"]["seed"])
    return int(json.loads(content_of(hub, commit, "translation.json"))["seconds"])


def content_of(hub: HubServer, commit: Commit, path: str) -> bytes:
    return hub.store.blobs.read(commit.files[path].sha256)


def assert_equal(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
