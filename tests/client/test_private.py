from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradtx_hf.cli.main import main
from gradtx_hf.client import ClientArguments, epsilon, fine_tune_client
from gradtx_hf.client.ledger import Ledger
from gradtx_hf.errors import AdapterError, ConfigurationError, GradTxError
from gradtx_hf.finetuning import (
    DataSource,
    FineTuningRecipe,
    PrivacySettings,
    add_adapter,
    dp,
    load_examples,
    load_language_model,
)
from gradtx_hf.finetuning.accounting import NoisySteps, compose
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation.records import load_privacy
from tests.curation.world import save_model


CANARIES = ("zebra", "okapi")
RECIPE = FineTuningRecipe(num_steps=3, batch_size=4, learning_rate=1e-2, max_length=32)
PRIVACY = PrivacySettings(noise_multiplier=2.0, delta=1e-4)
STEPS = NoisySteps(2.0, 0.25, 3)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    base = save_model(folder / "base", hidden_size=16, num_layers=2, seed=0)
    model, _ = load_language_model(str(base))
    adapter = add_adapter(model, rank=2, alpha=16, target_modules=["q_proj", "v_proj"], seed=0)
    adapter.save_pretrained(str(folder / "source_init"))
    return folder / "source_init"


@pytest.fixture
def data(tmp_path: Path) -> DataSource:
    return write_rows(tmp_path / "secret_patients.jsonl", range(16))


def write_rows(path: Path, numbers: range) -> DataSource:
    rows = [{"prompt": f"a{i}", "completion": CANARIES[i % 2]} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSource(path=str(path))


def run(init: Path, data: DataSource, folder: Path, name: str, **options: object) -> dict[str, Any]:
    values: dict[str, Any] = {"recipe": RECIPE, "privacy": PRIVACY, "work_dir": folder / "work"} | options
    fine_tune_client(init, data, output_dir=folder / name, **values)
    statement: dict[str, Any] = json.loads((folder / name / "privacy.json").read_text())
    return statement


def test_a_private_adapter_states_what_was_spent(tmp_path: Path, init: Path, data: DataSource) -> None:
    statement = run(init, data, tmp_path, "mine")

    spent = epsilon(noise_multiplier=2.0, sample_rate=0.25, num_steps=3, delta=1e-4)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "privacy.json",
    }
    assert (statement["epsilon"], statement["delta"], statement["accountant"]) == (spent, 1e-4, "prv")
    assert statement["total"] == {"epsilon": spent, "delta": 1e-4, "num_runs": 1}
    assert (statement["noise_multiplier"], statement["sample_rate"], statement["num_steps"]) == (2.0, 0.25, 3)
    assert (statement["expected_batch_size"], statement["max_grad_norm"]) == (4, 1.0)
    assert statement["clipping"] == "per_sample"
    assert statement["unit"].startswith("one row")
    assert "no secure RNG" in statement["randomness"]
    assert {"opacus", "torch"} <= set(statement["versions"])
    card = (tmp_path / "mine" / "README.md").read_text()
    assert f"## Privacy\n\nTrained with differential privacy: ε = {spent:.4g} at δ = 0.0001, accountant prv" in card
    assert load_adapter(tmp_path / "mine").layout == load_adapter(init).layout


@pytest.mark.slow
def test_runs_on_the_same_rows_add_up(tmp_path: Path, init: Path, data: DataSource) -> None:
    run(init, data, tmp_path, "first")
    second = run(init, data, tmp_path, "second")
    overlapping = run(init, write_rows(tmp_path / "b.jsonl", range(12, 28)), tmp_path, "third")
    others = run(init, write_rows(tmp_path / "c.jsonl", range(100, 116)), tmp_path, "fourth")
    elsewhere = run(init, data, tmp_path, "fifth", work_dir=tmp_path / "other")

    totals = [statement["total"] for statement in (second, overlapping, others, elsewhere)]
    assert [total["num_runs"] for total in totals] == [2, 3, 1, 1]
    assert totals[0]["epsilon"] == compose([STEPS] * 2, delta=1e-4)
    assert totals[1]["epsilon"] == compose([STEPS] * 3, delta=1e-4)
    assert totals[0]["epsilon"] > second["epsilon"] == others["total"]["epsilon"]


def test_nothing_private_is_in_the_adapter_or_the_ledger(
    tmp_path: Path, init: Path, data: DataSource, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "client.yaml"
    config.write_text(
        json.dumps(
            {
                "init": str(init),
                "data": {"path": data.path},
                "recipe": {"num_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "max_length": 32},
                "privacy": {"epsilon": 8, "delta": 1e-4, "max_grad_norm": 1.0},
                "output_dir": str(tmp_path / "mine"),
                "work_dir": str(tmp_path / "work"),
            }
        )
    )

    assert main(["client", "--config", str(config), "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert 7.9 < result["privacy"]["epsilon"] <= 8
    assert main(["inspect", str(tmp_path / "mine"), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["privacy"] == result["privacy"]
    assert main(["inspect", str(tmp_path / "mine")]) == 0
    shown = capsys.readouterr().out
    assert f"epsilon: {result['privacy']['epsilon']}" in shown

    texts = [printed.out, printed.err, shown, json.dumps(inspected)]
    texts += [path.read_bytes().decode("latin-1") for path in (tmp_path / "mine").iterdir()]
    texts.append((tmp_path / "work" / "ledger.json").read_text())
    for secret in (*CANARIES, "secret_patients", data.path):
        assert not any(secret in text for text in texts), secret
    assert not any("ledger" in text for text in texts[4:-1])
    assert (tmp_path / "work" / "ledger.json").stat().st_mode & 0o077 == 0


def test_the_terminal_shows_epsilon_and_keeps_the_loss_at_home(
    tmp_path: Path, init: Path, data: DataSource, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--{name}={value}" for name, value in {"init": init, "work-dir": tmp_path / "work"}.items()]
    options += ["--recipe", json.dumps(RECIPE.to_dict()), "--data", json.dumps({"path": data.path})]

    status = main(["client", *options, f"--output-dir={tmp_path / 'mine'}", "--privacy", "{noise_multiplier: 2}"])

    out = capsys.readouterr().out
    assert status == 0
    assert "(for you alone: epsilon does not cover it)" in out
    assert "at delta 1e-05, noise multiplier 2" in out
    assert "epsilon of all private runs on these rows in the ledger: " in out


def test_an_adapter_without_a_statement_is_shown_as_such(init: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(init)]) == 0

    assert "privacy: no differential privacy is stated" in capsys.readouterr().out


def test_a_ledger_that_would_leave_with_the_adapter_is_refused(tmp_path: Path, init: Path, data: DataSource) -> None:
    for work_dir in (tmp_path / "mine", tmp_path / "mine" / "work"):
        with pytest.raises(ConfigurationError, match="would leave with the adapter"):
            run(init, data, tmp_path, "mine", work_dir=work_dir)

    assert not (tmp_path / "mine").exists()


def test_rows_with_times_are_known_again(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chat = [{"role": role, "content": "a", "time": "2024-01-01 00:00:00"} for role in ("user", "assistant")]
    path.write_text(json.dumps({"messages": chat}) + "\n")
    rows = load_examples(DataSource(str(path)))
    assert rows[0]["messages"][0]["time"].year == 2024  # which JSON has not

    totals = [Ledger(tmp_path / "work").add(rows, STEPS, delta=1e-5) for _ in range(2)]

    assert [total.num_runs for total in totals] == [1, 2]


NO_LIST = json.dumps({"format": 1, "salt": "00" * 32, "runs": {}})


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 1, "salt": "00", "runs": []}', "[]", NO_LIST])
def test_a_damaged_ledger_is_refused_and_no_adapter_is_left(
    tmp_path: Path, init: Path, data: DataSource, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "ledger.json").write_text(content)

    monkeypatch.setattr(dp, "fine_tune_private", None)  # it is refused before anything is trained

    with pytest.raises(ConfigurationError, match="is damaged, and what was spent is not known"):
        run(init, data, tmp_path, "mine")

    assert not (tmp_path / "mine").exists()
    assert (tmp_path / "work" / "ledger.json").read_text() == content


def test_a_ledger_that_cannot_be_written_is_refused(tmp_path: Path, init: Path, data: DataSource) -> None:
    (tmp_path / "work").write_text("a file")

    with pytest.raises(ConfigurationError, match="cannot be written"):
        run(init, data, tmp_path, "mine")

    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": -1},
        {"num_steps": "many"},
        {"unit": ["a row"]},
        {"sampling": "x" * 301},
        {"total": 3},
        {"total": {"epsilon": -1, "num_runs": 2}},
        {"versions": {"torch": 2}},
        {"versions": "2.13"},
    ],
)
def test_a_statement_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    whole = {"epsilon": 1.0, "delta": 1e-5, "accountant": "prv", "note": "not ours"}
    (tmp_path / "privacy.json").write_text(json.dumps(whole))
    assert load_privacy(tmp_path, name="x") == {"epsilon": 1.0, "delta": 1e-5, "accountant": "prv"}
    (tmp_path / "privacy.json").write_text(json.dumps(whole | change))

    with pytest.raises(AdapterError, match=r"privacy.json of 'x' states"):
        load_privacy(tmp_path, name="x")


def test_a_private_run_in_parts_is_refused(tmp_path: Path, init: Path, data: DataSource) -> None:
    recipe = FineTuningRecipe(num_steps=3, batch_size=4, learning_rate=1e-2, max_length=32, num_parts=2)

    with pytest.raises(ConfigurationError, match="num_parts=2"):
        run(init, data, tmp_path, "mine", recipe=recipe)


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"epsilon": 8, "sigma": 1}, "unknown privacy key 'sigma'"),
        ({}, "neither of privacy epsilon and noise_multiplier"),
        ("8", "got privacy='8'"),
    ],
)
def test_arguments_refuse_privacy_that_cannot_be_meant(privacy: dict[str, Any], message: str) -> None:
    recipe = {"num_steps": 1, "batch_size": 1, "learning_rate": 1}
    with pytest.raises(GradTxError, match=message):
        ClientArguments(init="i", data={"path": "d.jsonl"}, recipe=recipe, output_dir="o", privacy=privacy)
