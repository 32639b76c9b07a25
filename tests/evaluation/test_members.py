"""Clients of several members: one adapter of several, scored on each member's own data; and private clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, OutputExistsError
from gradtx_hf.evaluation.arguments import ClientData
from gradtx_hf.evaluation.run import evaluate
from gradtx_hf.finetuning import DataSource, load_examples
from gradtx_hf.finetuning.public_data import sha256_of_rows
from gradtx_hf.lora import load_adapter
from tests.cli.story import UNSEEN, story
from tests.curation.world import RULES
from tests.evaluation.evaluations import make_arguments, report_of


def member(path: str, first: int, middle: int, last: int) -> dict[str, Any]:
    return {
        "train": {"path": path, "split": f"train[{first}:{middle}]"},
        "test": {"path": path, "split": f"train[{middle}:{last}]"},
    }


def clients() -> list[dict[str, Any]]:
    one, other = (str(story().data(rule)) for rule in (RULES[0], UNSEEN))
    return [
        {
            "task": "two",
            "seen": True,
            "seed": 5,
            "members": [member(one, 0, 8, 12), member(one, 12, 20, 24) | {"task": "second"}],
        },
        {"task": "single", "seen": False, "seed": 6, **member(other, 0, 16, 24)},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("members") / "evaluation"
    evaluate(make_arguments(folder, clients=clients()))
    return folder


def test_the_adapter_is_the_mean_of_the_members(folder: Path) -> None:
    home = folder / "clients" / "000-two"
    first, second, mean = (load_adapter(home / name).tensors for name in ("member_0", "member_1", "source"))
    for name, tensor in mean.items():
        assert torch.allclose(tensor, (first[name] + second[name]) / 2, atol=1e-6)
    assert json.loads((home / "source" / "aggregation.json").read_text())["aggregation"] == "mean"
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert not (folder / "clients" / "001-single" / "member_0").exists()


def test_every_client_has_every_control(folder: Path) -> None:
    found = report_of(folder)["clients"]
    assert [(client["task"], client["seed"], client["seen"]) for client in found] == [
        ("two", 5, True),
        ("second", 6, True),
        ("single", 6, False),
    ]
    assert len({frozenset(client["scores"]) for client in found}) == 1
    assert all(client["scores"]["ceiling"] is not None for client in found)


def test_the_ceiling_learns_from_the_rows_of_all_members(folder: Path) -> None:
    noted = json.loads((folder / "evaluation.json").read_text())["fine_tuning"]["clients"]
    rows = load_examples(DataSource(str(story().data(RULES[0])))).select([*range(8), *range(12, 20)])
    assert noted[0]["train_sha256"] == sha256_of_rows(rows)
    assert [client["num_members"] for client in noted] == [2, 1]


@pytest.mark.slow
def test_members_adapters_are_taken_over(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    report = evaluate(make_arguments(again, clients=clients(), adapters_from=str(folder), aggregation="sum"))
    home, earlier = again / "clients" / "000-two", folder / "clients" / "000-two"
    for name in ("member_0", "member_1", "ceiling"):
        weights = "adapter_model.safetensors"
        assert (home / name / weights).read_bytes() == (earlier / name / weights).read_bytes()
    start = load_adapter(folder / "translator" / "source_init").tensors
    mean, total = load_adapter(earlier / "source").tensors, load_adapter(home / "source").tensors
    for name, tensor in total.items():
        assert torch.allclose(tensor - start[name], 2 * (mean[name] - start[name]), atol=1e-6)
    for now, before in zip(report.clients, report_of(folder)["clients"], strict=True):
        assert now.scores["source_client"] == before["scores"]["source_client"]


@pytest.mark.slow
def test_private_clients_state_what_they_spent(tmp_path: Path) -> None:
    privacy = {"noise_multiplier": 1.0, "delta": 1e-3}
    folder = tmp_path / "private"
    evaluate(make_arguments(folder, clients=clients(), client_privacy=privacy))
    for name in ("000-two/member_0", "000-two/member_1", "001-single/source"):
        stated = json.loads((folder / "clients" / name / "privacy.json").read_text())
        assert stated["noise_multiplier"] == 1.0
        assert stated["total"]["num_runs"] == 1
    assert not (folder / "clients" / "000-two" / "ceiling" / "privacy.json").exists()
    with pytest.raises(OutputExistsError, match="client_privacy has changed"):
        evaluate(make_arguments(folder, clients=clients()))
    with pytest.raises(ConfigurationError, match="its client_privacy differs"):
        evaluate(make_arguments(tmp_path / "other", clients=clients(), adapters_from=str(folder)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"path": "x.jsonl"}}, "got members and train in client 'two'"),
        ({"members": {"train": 1}}, "members that are no list in client 'two'"),
        ({"members": ["x"]}, "got client 'x'"),
        ({"members": [{"train": {"path": "x.jsonl"}}]}, "a client lacks 'test'"),
        (
            {"members": [{"train": {"path": "x.jsonl", "num_samples": 3}, "test": {"path": "x.jsonl"}}]},
            "got num_samples in the training data of a member of client 'two'",
        ),
    ],
)
def test_members_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClientData.from_dict({**clients()[0], **changes})


def test_unknown_rules_and_budgets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="got aggregation 'middle'"):
        make_arguments(tmp_path, aggregation="middle")
    with pytest.raises(ConfigurationError, match="got neither of privacy epsilon"):
        make_arguments(tmp_path, client_privacy={"delta": 1e-5})
