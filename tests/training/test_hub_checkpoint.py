"""A training that is lost on one machine goes on, on another, from the state on the Hub."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from gradtx_hf.errors import ConfigurationError, HubError, MissingFileError, OutputExistsError
from gradtx_hf.finetuning.progress import StepBar
from gradtx_hf.hub import Destination, retry
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.training.hub_checkpoint import HubCheckpoints, restore_checkpoints
from gradtx_hf.translation import PeftTranslator
from tests.cli.story import TRAINING, story
from tests.hubs import ALICE, BOB, add_repository, folder_files


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """A repository of this test alone."""
    return f"alice/translator-{abs(hash(request.node.name))}"


@pytest.fixture
def store(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose base models are on the Hub, so that its translator can be published."""
    folder = tmp_path_factory.mktemp("hub") / "store"
    shutil.copytree(story().store, folder)
    for side in ("source", "target"):
        add_repository(hub, f"alice/tiny-{side}", folder_files(story().folder / side))
        path = folder / f"{side}_init" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": f"alice/tiny-{side}"}))
    return folder


def make_arguments(folder: Path, store: Path, repo: str | None = None, **changes: object) -> TranslatorArguments:
    hub = {"push_to_hub": True, "hub_strategy": "checkpoint", "hub_model_id": repo, "hub_token": ALICE} if repo else {}
    values = TRAINING | {"max_steps": 6, "store": str(store), "output_dir": str(folder)} | hub | changes
    return TranslatorArguments(**values)  # type: ignore[arg-type]


def train_until_lost(arguments: TranslatorArguments, monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """Train until a machine is lost in the middle of a step, counted over all parts, with all of its files."""
    steps = []

    def count(self: StepBar, args: object, state: object, control: object, **kwargs: object) -> None:
        steps.append(1)
        if len(steps) == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StepBar, "on_step_end", count)
        with pytest.raises(KeyboardInterrupt):
            train(arguments)
    shutil.rmtree(f"{arguments.output_dir}-checkpoints")


def files_on_branch(repo: str) -> list[str]:
    return sorted(HfApi(token=ALICE).list_repo_files(repo, revision="checkpoint"))


def branches(repo: str) -> list[str]:
    return [branch.name for branch in HfApi(token=ALICE).list_repo_refs(repo).branches]


def same_weights(a: PeftTranslator, b: PeftTranslator) -> bool:
    pairs = [(a.parts[name].state_dict(), b.parts[name].state_dict()) for name in a.parts]
    return all(torch.equal(mine[key], other[key]) for mine, other in pairs for key in mine)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "functional"},
        pytest.param({"objective": "parameter", "mixing": 0.5, "partition": "projection"}, marks=pytest.mark.slow),
    ],
)
def test_another_machine_goes_on_to_the_same_weights(
    options: dict[str, object], store: Path, repo: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uninterrupted = train(make_arguments(tmp_path / "whole", store, **options))
    lost_at = 9 if "partition" in options else 5  # in the second part, or in the only one
    train_until_lost(make_arguments(tmp_path / "lost", store, repo, **options), monkeypatch, step=lost_at)
    pushed = files_on_branch(repo)
    shutil.copytree(store, tmp_path / "store_elsewhere")

    resumed = train(
        make_arguments(
            tmp_path / "elsewhere",
            tmp_path / "store_elsewhere",
            resume_from_checkpoint=f"{repo}@checkpoint",
            hub_token=ALICE,
            **options,
        )
    )

    assert same_weights(resumed, uninterrupted)
    assert {Path(name).suffix for name in pushed} <= {".json", ".safetensors", ".md", ""}
    assert "checkpoint" in branches(repo)  # who only reads it leaves it
    mine, other = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("elsewhere", "whole"))
    for part, record in other["parts"].items():
        assert mine["parts"][part]["num_steps"] == record["num_steps"]
        assert mine["parts"][part]["block_errors"] == record["block_errors"]


@pytest.mark.slow
def test_the_same_command_goes_on_and_removes_the_branch_at_its_end(
    store: Path,
    repo: str,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    uninterrupted = train(make_arguments(tmp_path / "whole", store))
    train_until_lost(make_arguments(tmp_path / "lost", store, repo), monkeypatch, step=5)
    messages = [commit.title for commit in HfApi(token=ALICE).list_repo_commits(repo, revision="checkpoint")]

    with caplog.at_level(logging.INFO, logger="gradtx_hf"):
        resumed = train(make_arguments(tmp_path / "again", store, repo))

    assert messages[:2] == ["Step 4", "Step 2"]
    assert f"going on from '{repo}'" in caplog.text
    assert same_weights(resumed, uninterrupted)
    assert branches(repo) == ["main"]
    assert ALICE not in caplog.text


def test_the_state_is_private_and_names_no_token_and_no_folder(
    store: Path, repo: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train_until_lost(make_arguments(tmp_path / "lost", store, repo), monkeypatch, step=3)

    api = HfApi(token=ALICE)
    assert api.model_info(repo).private is True
    texts = [
        Path(api.hf_hub_download(repo, name, revision="checkpoint", local_dir=tmp_path / "copy")).read_text()
        for name in files_on_branch(repo)
        if name.endswith((".json", ".md"))
    ]
    assert len(texts) > 4
    assert not any(ALICE in text or str(tmp_path) in text or str(story().folder) in text for text in texts)
    with pytest.raises(MissingFileError, match="no repository"):
        restore_checkpoints(repo, tmp_path / "stolen", parts=[""], identity={}, token=BOB)


def test_another_training_neither_goes_on_nor_writes_over_the_state(
    store: Path, repo: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train_until_lost(make_arguments(tmp_path / "lost", store, repo), monkeypatch, step=3)
    other = {"learning_rate": 0.5}

    for options in ({"repo": repo}, {"resume_from_checkpoint": repo, "hub_token": ALICE}):
        with pytest.raises(OutputExistsError, match=r"of another training: learning_rate is 0\.5, they have 0\.002"):
            train(make_arguments(tmp_path / "other", store, **other, **options))  # type: ignore[arg-type]
    assert not (tmp_path / "other-checkpoints").exists()
    assert "checkpoint-2/model.safetensors" in files_on_branch(repo)


@pytest.mark.parametrize("error", [HubError("no lasting connection."), OSError("no space left.")])
def test_a_push_that_fails_is_told_and_training_goes_on(
    error: OSError,
    store: Path,
    repo: str,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(retry, "WAITS", ())
    push = HubCheckpoints.push

    def fail_once(self: HubCheckpoints, num_steps: int) -> None:
        if num_steps == 2:
            raise error
        push(self, num_steps)

    monkeypatch.setattr(HubCheckpoints, "push", fail_once)

    train(make_arguments(tmp_path / "translator", store, repo))

    assert f"the state of step 2 was not pushed, training goes on: {error}" in caplog.text
    assert "model.safetensors" in HfApi(token=ALICE).list_repo_files(repo)


def test_the_branch_of_the_state_is_not_for_the_translator(store: Path, repo: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="hub_revision 'checkpoint', the branch that keeps"):
        train(make_arguments(tmp_path / "translator", store, repo, hub_revision="checkpoint"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["never made", "answer lost"])
def test_a_branch_that_is_gone_is_not_said_to_be_left(
    fault: str,
    repo: str,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    add_repository(hub, repo, {})
    if fault == "answer lost":
        HfApi(token=ALICE).create_branch(repo, branch="checkpoint")
        hub.faults.add("drop_response", method="DELETE", times=1)

    HubCheckpoints(Destination(repo, revision="checkpoint", token=ALICE), tmp_path, ("",)).remove()

    assert not list(hub.faults)
    assert branches(repo) == ["main"]
    assert "left behind" not in caplog.text


def test_a_public_repository_is_refused_before_training(store: Path, repo: str, hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, repo, {})

    with pytest.raises(HubError, match="is public"):
        train(make_arguments(tmp_path / "translator", store, repo))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("alice/nothing-there", MissingFileError, "no repository 'alice/nothing-there'"),
        ("no such folder", MissingFileError, "is no folder on this machine, and no repository id"),
    ],
)
def test_a_checkpoint_that_is_nowhere_is_one_clear_line(
    name: str, error: type[Exception], message: str, store: Path, hub: HubServer, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(make_arguments(tmp_path / "translator", store, resume_from_checkpoint=name))
    assert not list(tmp_path.iterdir())


def test_a_repository_without_a_state_is_refused(store: Path, repo: str, hub: HubServer, tmp_path: Path) -> None:
    add_repository(hub, repo, {"config.json": b"{}"})

    with pytest.raises(ConfigurationError, match=rf"holds no state of a training. .* '{repo}@checkpoint'"):
        train(make_arguments(tmp_path / "translator", store, resume_from_checkpoint=f"{repo}@main"))
