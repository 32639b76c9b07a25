"""Further translators, scored on the same clients."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gradtx_hf.cli.configuration import parse_into
from gradtx_hf.errors import ConfigurationError, OutputExistsError
from gradtx_hf.evaluation import METHODS
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.methods import RIVALS, method_of
from gradtx_hf.evaluation.run import evaluate
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import PeftTranslator
from tests.cli.story import listing, story
from tests.evaluation.evaluations import make_arguments, report_of


def moved(folder: Path, file: str) -> str:
    """Return a copy of the story's translator with other numbers in one file."""
    shutil.copytree(story().translator, folder)
    tensors = load_file(folder / file)
    generator = torch.Generator().manual_seed(0)
    changed = {
        name: tensor
        if name.endswith(("_mean", "_std"))
        else tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }
    save_file(changed, folder / file, metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def arguments(tmp_path: Path) -> EvaluationArguments:
    """Return an evaluation of two clients with a rival."""
    rival = moved(tmp_path / "rival", "model.safetensors")
    made = make_arguments(tmp_path / "evaluation", rivals={"functional_linear": rival})
    return replace(made, clients=made.clients[:2])


def test_a_rival_is_scored_with_its_own_adapters(arguments: EvaluationArguments, tmp_path: Path) -> None:
    evaluate(arguments)

    report = report_of(tmp_path / "evaluation")
    for client in report["clients"]:
        assert set(client["scores"]) == {*METHODS, "functional_linear"}
        assert client["nats_per_token"]["functional_linear"] != client["nats_per_token"]["translated"]
    assert report["config"]["rivals"] == arguments.rivals
    assert "| Functional linear map alone |" in (tmp_path / "evaluation" / "report.md").read_text()
    rival = PeftTranslator.from_pretrained(arguments.rivals["functional_linear"])
    for home in (tmp_path / "evaluation" / "clients").iterdir():
        assert sorted(path.name for path in home.iterdir()) == ["ceiling", "functional_linear", "source", "translated"]
        rival.translate(home / "source").save_pretrained(tmp_path / home.name)
        written, expected = (load_adapter(f).tensors for f in (home / "functional_linear", tmp_path / home.name))
        assert all(torch.equal(written[name], expected[name]) for name in written)


@pytest.mark.slow
def test_rivals_adapters_that_are_there_are_kept_and_those_of_a_changed_rival_are_not(
    arguments: EvaluationArguments, tmp_path: Path
) -> None:
    evaluate(arguments)
    before = {name: time for name, time in listing(tmp_path / "evaluation").items() if name.startswith("clients")}

    evaluate(arguments)

    after = listing(tmp_path / "evaluation")
    assert {name: after[name] for name in before} == before
    shutil.rmtree(tmp_path / "rival")
    shutil.copytree(story().translator, tmp_path / "rival")
    with pytest.raises(OutputExistsError, match=r"file 'model.safetensors' of rival 'functional_linear' has changed"):
        evaluate(arguments)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_rival_of_another_start_is_refused(side: str, tmp_path: Path) -> None:
    rival = moved(tmp_path / "rival", f"{side}_init/adapter_model.safetensors")

    with pytest.raises(ConfigurationError, match=f"got rival 'other' .* with another {side}_init, expected") as caught:
        evaluate(make_arguments(tmp_path / "evaluation", rivals={"other": rival}))

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize("name", ["Functional", "two words", "a__b", "_a", "1st", "", "../up"])
def test_names_of_rivals_are_in_snake_case(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="as the name of a rival, expected small letters"):
        make_arguments(tmp_path, rivals={name: "folder"})


@pytest.mark.parametrize("name", [*METHODS, "source"])
def test_names_of_rivals_are_no_methods_nor_folders_of_a_client(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"got '{name}' as the name of a rival, which means something else"):
        make_arguments(tmp_path, rivals={name: "folder"})


@pytest.mark.parametrize(("rivals", "words"), [({"other": 3}, "got 3 as the translator"), (["other"], "got rivals")])
def test_what_names_no_translators_is_refused(rivals: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_arguments(tmp_path, rivals=rivals)


def test_rivals_come_from_yaml_and_from_a_flag(tmp_path: Path) -> None:
    clients = [{"task": "t", "train": {"path": "a.jsonl"}, "test": {"path": "a.jsonl"}}]
    values = {"translator": "t", "store": "s", "output_dir": "o", "clients": clients, "rivals": {"other": "folder"}}
    (tmp_path / "evaluate.yaml").write_text(json.dumps(values))  # JSON is YAML

    def parse(*flags: str) -> EvaluationArguments:
        argv = ["--config", str(tmp_path / "evaluate.yaml"), *flags]
        return parse_into(EvaluationArguments, argv, command="evaluate", description="")[0]

    assert parse().rivals == {"other": "folder"}
    assert parse("--rivals", "{ridge_like: x/y, b: z}").rivals == {"ridge_like": "x/y", "b": "z"}
    assert parse("--adapters-from", "earlier").adapters_from == "earlier"
    assert parse().adapters_from is None


def test_labels_of_rivals() -> None:
    assert method_of("functional_linear").label == "Functional linear map alone"
    assert method_of("paper_objective").label == "Paper's objective (parameter-space MSE)"
    assert {name for name, method in RIVALS.items() if method.kind != "rival"} == {"source_best"}
    assert not set(RIVALS) & set(METHODS)
