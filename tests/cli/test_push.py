from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from gradtx_hf.lora import save_adapter
from gradtx_hf.playground.hub_server import HubServer
from tests.cli.conftest import Finished
from tests.hubs import ALICE, add_repository
from tests.translation.hub_files import card_of, repo_files
from tests.translation.hub_pair import LARGE, SMALL, HubPair, put_pair_on_hub
from tests.translation.pair import Pair, make_pair, save_client


Gradtx = Callable[..., Finished]
REPORT = Path(__file__).parents[2] / "examples" / "results" / "quickstart_seed_0.json"


@dataclass(frozen=True)
class Folders:
    """A translator whose models are on the Hub, and one whose models are not, and a client's adapter of each."""

    translator: Path
    client: Path
    local: Pair
    local_client: Path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    folder = tmp_path_factory.mktemp("pair")
    pair = make_pair(folder)
    return pair, save_client(pair, folder / "client", seed=0)


@pytest.fixture
def folders(hub: HubServer, local: tuple[Pair, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    for name in ("org/translator", "org/adapter", "org/other"):
        if (repository := hub.store.find("models", name)) is not None:
            hub.store.delete(repository)
    pair, client = local
    hub_pair: HubPair = put_pair_on_hub(hub, pair)
    hub_pair.translator.save_pretrained(tmp_path / "translator")
    adapter = hub_pair.client(client)
    save_adapter(tmp_path / "client", config=adapter.config, tensors=adapter.tensors)
    return Folders(tmp_path / "translator", tmp_path / "client", pair, client)


def test_a_translators_folder_is_published_with_its_results(gradtx: Gradtx, folders: Folders, hub: HubServer) -> None:
    finished = gradtx("push", folders.translator, "org/translator", "--report", REPORT)

    assert finished.status == 0
    assert finished.out == f"{hub.url}/org/translator\n"
    assert "--translator org/translator" in finished.err
    assert "## Results" in card_of("org/translator")[1]
    assert HfApi().model_info("org/translator").private


def test_json_is_all_that_is_printed(gradtx: Gradtx, folders: Folders, hub: HubServer) -> None:
    finished = gradtx("push", folders.client, "org/adapter", "--revision", "next", "--message", "mine", "--json")

    printed = json.loads(finished.out)
    (commit, *_) = HfApi().list_repo_commits("org/adapter", revision="next")
    assert printed == {
        "repo_id": "org/adapter",
        "commit": commit.commit_id,
        "url": f"{hub.url}/org/adapter/tree/next",
        "is_changed": True,
    }
    assert commit.title == "mine"
    assert "PeftModel.from_pretrained(model, 'org/adapter', revision='next')" in finished.err


def test_public_must_be_said(gradtx: Gradtx, folders: Folders) -> None:
    gradtx("push", folders.client, "org/adapter", "--public")

    assert not HfApi().model_info("org/adapter").private
    assert "is public" in gradtx("push", folders.client, "org/adapter").error


def test_a_translation_is_published_at_once(gradtx: Gradtx, folders: Folders, tmp_path: Path) -> None:
    gradtx("push", folders.translator, "org/translator")

    finished = gradtx(
        "translate", folders.client, "--translator", "org/translator", "--output-dir", tmp_path / "out",
        "--push-to-hub", "org/adapter",
    )  # fmt: skip

    assert finished.status == 0
    assert finished.out == f"{tmp_path / 'out'}\n"
    assert "published: " in finished.err
    commit = HfApi().model_info("org/translator").sha
    assert card_of("org/adapter")[0]["gradtx_hf"]["translator"] == f"org/translator@{commit}"
    again = gradtx("push", tmp_path / "out", "org/adapter", "--json")
    assert json.loads(again.out)["is_changed"] is False


def test_a_license_can_be_given(gradtx: Gradtx, folders: Folders, tmp_path: Path) -> None:
    gradtx("push", folders.translator, "org/translator", "--license", "mit")
    gradtx(
        "translate", folders.client, "--translator", "org/translator", "--output-dir", tmp_path / "out",
        "--cache-dir", tmp_path / "cache", "--push-to-hub", "org/adapter", "--license", "cc0-1.0",
    )  # fmt: skip
    assert (tmp_path / "cache" / "models--org--translator").is_dir()
    assert card_of("org/adapter")[0]["license"] == "cc0-1.0"

    gradtx("push", folders.client, "org/other", "--license", "apache-2.0")

    assert [card_of(name)[0]["license"] for name in ("org/translator", "org/other")] == ["mit", "apache-2.0"]


def test_local_models_can_be_given_their_ids(gradtx: Gradtx, folders: Folders) -> None:
    translator = folders.local.translator

    assert "nobody else can find" in gradtx("push", translator, "org/translator").error
    ids = ("--source-model", SMALL, "--target-model", LARGE)
    assert gradtx("push", translator, "org/translator", *ids).status == 0
    assert gradtx("push", folders.local_client, "org/adapter", "--target-model", SMALL).status == 0

    assert card_of("org/translator")[0]["base_model"] == [SMALL, LARGE]
    assert card_of("org/adapter")[0]["base_model"] == SMALL
    for name in ("org/translator", "org/adapter"):
        assert not any(b"/tmp/" in content for content in repo_files(name).values())


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (("nowhere", "org/adapter"), "there is no folder"),
        (("client", "adapter"), "owner/name"),
        (("client", "org/adapter", "--report", "x"), "--report goes with a translator"),
        (("client", "org/adapter", "--source-model", "x/y"), "--source-model goes with a translator"),
        (("client", "org/adapter", "--target-model", "../x"), "nobody else can find"),
        (("translator", "org/translator", "--report", "nowhere.json"), "there is no report"),
        (("client", "org/adapter", "--license", "GPL (v3)"), "expected its id on the Hub"),
        (("client", "org/taken"), "not to write over"),
        (("client", "bob/adapter"), "refuses to write"),
    ],
)
def test_refusals_are_one_line(
    gradtx: Gradtx,
    folders: Folders,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    saying: str,
) -> None:
    add_repository(hub, "org/taken", {"model.safetensors": b"1"}, is_private=True)
    monkeypatch.chdir(folders.client.parent)

    assert saying in gradtx("push", *arguments).error


def test_what_is_no_repository_is_refused_before_the_translation(
    gradtx: Gradtx, folders: Folders, tmp_path: Path
) -> None:
    output = tmp_path / "out"

    finished = gradtx(
        "translate", folders.client, "--translator", folders.translator, "--output-dir", output, "--push-to-hub", "x"
    )

    assert "owner/name" in finished.error
    assert not output.exists()
