"""The recipes of examples/many_clients: each can be read, and one after the other they run at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.client import ClientArguments
from gradtx_hf.curation import CurationArguments
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.playground import make_lines, split_rules
from gradtx_hf.training import TranslatorArguments
from tests.examples.test_examples import EXAMPLES, TOY_TRAINING, gradtx, tiny_qwen, write_rows


RECIPES = EXAMPLES / "many_clients"
ARGUMENTS = {
    "curate": CurationArguments,
    "train": TranslatorArguments,
    "client": ClientArguments,
    "evaluate": EvaluationArguments,
}
TOY_RECIPE = "{num_steps: 2, batch_size: 2, learning_rate: 1e-3, max_length: 32}"
NOISY_RECIPE = "{num_steps: 2, batch_size: 2, learning_rate: 1e-3, max_length: 32, row_noise: [0.5, 1.0]}"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OUT", tmp_path / "run"), ("FIRST", 50), ("LAST", 59), ("EPSILON", 8)):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read(path: Path) -> None:
    command = path.stem.partition("_")[0]
    flags = ["--bf16", "false", "--use-cpu", "true"] if command == "train" else []

    arguments, _ = parse_into(ARGUMENTS[command], ["--config", str(path), *flags], command=command, description="")

    if isinstance(arguments, EvaluationArguments):
        assert all(client.task for client in arguments.client_data())


def test_the_noise_of_shadow_runs_is_that_of_private_clients() -> None:
    curation, _ = parse_into(
        CurationArguments, ["--config", str(RECIPES / "curate_private.yaml")], command="curate", description=""
    )
    client, _ = parse_into(
        ClientArguments, ["--config", str(RECIPES / "client_private.yaml")], command="client", description=""
    )

    private = client.privacy_settings
    assert private is not None
    assert private.epsilon == 8.0
    assert curation.source_recipe["max_grad_norm"] == private.max_grad_norm
    for name in ("num_steps", "warmup_steps", "learning_rate", "weight_decay"):
        assert curation.source_recipe[name] == client.recipe[name]


def test_the_mixtures_have_two_thousand_samples_and_the_shares_that_they_say() -> None:
    arguments, _ = parse_into(
        EvaluationArguments, ["--config", str(RECIPES / "evaluate_mixtures.yaml")], command="evaluate", description=""
    )

    for client in arguments.client_data():
        counts = [sample.num_samples or 0 for sample in client.train]
        said = [int(part.split("%")[0]) for part in client.task.split(", ")]
        assert sum(counts) == 2000
        assert [round(count / 20) for count in counts] == said


@pytest.mark.long
def test_the_recipes_run_one_after_the_other_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_qwen(tmp_path / "source", hidden_size=16, num_layers=2)
    target = tiny_qwen(tmp_path / "target", hidden_size=32, num_layers=3)
    data = write_rows(tmp_path / "rows.jsonl", make_lines(list(split_rules("small", seed=0).seen), 80, seed=0))
    corpora = f"[{{label: a, path: {data}, split: 'train[:25%]'}}, {{label: b, path: {data}, split: 'train[25%:50%]'}}]"
    run = tmp_path / "run"
    for name, recipe in (("curate", TOY_RECIPE), ("curate_private", NOISY_RECIPE)):
        gradtx(
            "curate",
            config=RECIPES / f"{name}.yaml",
            source_model=source,
            target_model=target,
            corpora=corpora,
            num_shadow_sets=3,
            num_target_runs=1,
            samples_per_set=4,
            num_snapshots=1,
            source_recipe=recipe,
            target_recipe=TOY_RECIPE,
        )
    for suffix in ("", "_private"):
        gradtx(
            "train",
            config=RECIPES / "train.yaml",
            store=run / f"store{suffix}",
            output_dir=run / f"translator{suffix}",
            bf16=False,
            use_cpu=True,
            num_target_runs=1,
            linear_rank=4,
            d_model=16,
            **TOY_TRAINING,
        )

    drawn = [{"path": str(data), "split": f"train[{i}%:{i + 9}%]", "num_samples": 3} for i in (50, 60)]
    for first in (50, 60):
        monkeypatch.setenv("FIRST", str(first))
        source_data = f"{{path: {data}, split: 'train[{first}%:{first + 9}%]'}}"
        gradtx("client", config=RECIPES / "client.yaml", recipe=TOY_RECIPE, data=source_data)
    gradtx("client", config=RECIPES / "client_private.yaml", recipe=TOY_RECIPE, data=source_data)
    members = [run / "client_50", run / "client_60"]
    gradtx("translate", *members, translator=run / "translator", **{"output-dir": run / "translated"})
    gradtx(
        "translate",
        run / "private_60_8",
        translator=run / "translator_private",
        **{"output-dir": run / "private_translated"},
    )
    test = {"path": str(data), "split": "train[98%:]"}
    five = [{"train": {"path": str(data), "split": f"train[{i}%:{i + 9}%]"}, "test": test} for i in (50, 60)]
    for name, client in (
        ("mixtures", {"task": "mixed", "train": drawn, "test": test}),
        ("five", {"task": "one", "members": five}),
    ):
        gradtx(
            "evaluate",
            config=RECIPES / f"evaluate_{name}.yaml",
            metric="exact_match",
            max_new_tokens=2,
            clients=json.dumps([client]),
            source_recipe=TOY_RECIPE,
            target_recipe=TOY_RECIPE,
            public_recipe=TOY_RECIPE,
        )

    declared = json.loads((run / "translator_private/training.json").read_text())["store"]["source"]["recipe"]
    assert declared["row_noise"] == [0.5, 1.0]
    report = json.loads((run / "translated/translation.json").read_text())
    assert [adapter["share"] for adapter in report["adapters"]] == [0.5, 0.5]
    assert (run / "evaluation_mixtures/report.json").is_file()
