"""Fine-tuned adapters of an earlier evaluation."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, DataError, GradTxError, MissingFileError
from gradtx_hf.evaluation import fine_tuning
from gradtx_hf.evaluation.arguments import EvaluationArguments
from gradtx_hf.evaluation.fine_tuning import FineTuningPack, perform_pack
from gradtx_hf.evaluation.reuse import copy_adapters, find_adapters, sha256_of_adapter
from gradtx_hf.evaluation.run import CONFIG_FILE, evaluate
from gradtx_hf.lora import load_adapter
from tests.cli.story import RECIPE, listing, story
from tests.curation.world import RULES
from tests.evaluation.evaluations import make_arguments, report_of


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> EvaluationArguments:
    """Return the arguments of an evaluation of two clients that is done."""
    made = make_arguments(tmp_path_factory.mktemp("earlier") / "evaluation")
    made = replace(made, clients=made.clients[:2])
    evaluate(made)
    return made


@pytest.fixture
def fine_tuned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that the folders of the adapters which are fine-tuned from now on go to."""
    folders: list[str] = []

    def perform(pack: FineTuningPack) -> None:
        folders.extend("/".join(Path(job.output_dir).parts[-2:]) for job in pack.jobs)
        perform_pack(pack)

    monkeypatch.setattr(fine_tuning, "perform_pack", perform)
    return folders


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_the_same_clients_are_not_fine_tuned_again_whatever_their_order(
    earlier: EvaluationArguments, fine_tuned: list[str], tmp_path: Path
) -> None:
    before = listing(Path(earlier.output_dir))
    clients = make_arguments(tmp_path).clients[::-1]

    evaluate(
        replace(earlier, output_dir=str(tmp_path / "later"), clients=clients, adapters_from=str(earlier.output_dir))
    )

    assert fine_tuned == ["000-rotate_1+2/ceiling", "000-rotate_1+2/source"]
    assert listing(Path(earlier.output_dir)) == before
    for here, there in (("001-identity+1", "001-identity+1"), ("002-reverse+3", "000-reverse+3")):
        for name in ("source", "ceiling", "translated"):
            origin = Path(earlier.output_dir) / "clients" / there / name
            assert weights(tmp_path / "later" / "clients" / here / name) == weights(origin)
    scores = {client["task"]: client["nats_per_token"] for client in report_of(Path(earlier.output_dir))["clients"]}
    for client in report_of(tmp_path / "later")["clients"][1:]:
        for name in ("source_client", "ceiling", "translated", "public_finetune"):
            assert client["nats_per_token"][name] == pytest.approx(scores[client["task"]][name])


def test_data_are_known_by_their_rows_and_an_earlier_evaluation_may_have_more(
    earlier: EvaluationArguments, fine_tuned: list[str], tmp_path: Path
) -> None:
    client = copy.deepcopy(earlier.clients[1])
    shutil.copy(client["train"]["path"], tmp_path / "moved.jsonl")
    client["train"]["path"] = str(tmp_path / "moved.jsonl")

    evaluate(
        replace(earlier, output_dir=str(tmp_path / "later"), clients=[client], adapters_from=str(earlier.output_dir))
    )

    assert fine_tuned == []
    assert sorted(path.name for path in (tmp_path / "later" / "clients").iterdir()) == ["000-identity+1"]


@pytest.mark.slow
def test_an_adapter_that_the_earlier_evaluation_lacks_is_fine_tuned_here(
    earlier: EvaluationArguments, fine_tuned: list[str], tmp_path: Path
) -> None:
    shutil.copytree(earlier.output_dir, tmp_path / "unfinished")
    shutil.rmtree(tmp_path / "unfinished" / "clients" / "000-reverse+3" / "ceiling")
    later = replace(earlier, output_dir=str(tmp_path / "later"), adapters_from=str(tmp_path / "unfinished"))

    evaluate(later)
    shutil.rmtree(tmp_path / "unfinished")
    evaluate(later)  # needs the earlier one no more

    assert fine_tuned == ["000-reverse+3/ceiling"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_recipe": RECIPE | {"num_steps": 3}}, "got num_steps=4 in its source_recipe, expected 3"),
        ({"target_recipe": RECIPE | {"batch_size": 2}}, "got batch_size=4 in its target_recipe, expected 2"),
        ({"public_recipe": RECIPE | {"num_steps": 9}}, "got num_steps=4 in its public_recipe, expected 9"),
        (
            {
                "clients": [
                    {
                        "task": "reverse+3",
                        "seed": 0,
                        "train": {"path": "DATA", "split": "train[:15]"},
                        "test": {"path": "DATA"},
                    }
                ]
            },
            r"the training data of its client 'reverse\+3' with seed 0 differ",
        ),
    ],
)
def test_another_fine_tuning_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, earlier: EvaluationArguments, tmp_path: Path
) -> None:
    changes = json.loads(json.dumps(changes).replace("DATA", story().data(RULES[0])))
    later = replace(earlier, output_dir=str(tmp_path / "later"), adapters_from=str(earlier.output_dir), **changes)

    with pytest.raises(ConfigurationError, match=words) as caught:
        evaluate(later)

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "later").exists()


@pytest.mark.parametrize("name", ["source model", "target model", "source_init", "target_init", "public data"])
def test_what_differs_is_named(name: str, earlier: EvaluationArguments) -> None:
    folder = Path(earlier.output_dir)
    inputs = json.loads((folder / CONFIG_FILE).read_text())["fine_tuning"]
    assert len(find_adapters(folder, inputs, config_file=CONFIG_FILE)) == 5

    with pytest.raises(ConfigurationError, match=f"cannot be taken over: its {name} differs. Give an evaluation"):
        find_adapters(folder, inputs | {name: "0" * 64}, config_file=CONFIG_FILE)


def test_a_task_of_another_seed_is_another_client(earlier: EvaluationArguments) -> None:
    folder = Path(earlier.output_dir)
    inputs = json.loads((folder / CONFIG_FILE).read_text())["fine_tuning"]
    inputs["clients"][0] |= {"seed": 7, "train_sha256": "0" * 64}

    found = find_adapters(folder, inputs, config_file=CONFIG_FILE)

    assert set(found) == {"public_finetune", "clients/001-identity+1/source", "clients/001-identity+1/ceiling"}


def no_evaluation(folder: Path) -> None:
    folder.mkdir()


def of_an_earlier_version(folder: Path) -> None:
    folder.mkdir()
    (folder / CONFIG_FILE).write_text('{"arguments": {}}')


def damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / CONFIG_FILE).write_text('{"argum')


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (no_evaluation, MissingFileError, "is no evaluation: it has no evaluation.json"),
        (of_an_earlier_version, DataError, "does not say what its adapters were made of"),
        (damaged, DataError, "does not say what its adapters were made of"),
    ],
)
def test_what_is_no_evaluation_is_refused(
    make: Callable[[Path], None], error: type[GradTxError], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "earlier")

    with pytest.raises(error, match=words):
        evaluate(make_arguments(tmp_path / "later", adapters_from=str(tmp_path / "earlier")))

    assert not (tmp_path / "later").exists()


def test_an_adapter_is_copied_whole_or_not_at_all(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    (origin / "folder").mkdir(parents=True)  # no adapter folder holds one: copying fails on it
    (origin / "file").write_text("x")

    with pytest.raises(OSError, match="folder"):
        copy_adapters({"source": origin}, tmp_path / "later")

    assert not list((tmp_path / "later").iterdir())


def test_the_digest_of_an_adapter_is_of_all_that_fine_tuning_depends_on() -> None:
    adapter = load_adapter(story().translator / "source_init")
    name = next(iter(adapter.tensors))

    def changed(**values: object) -> str:
        config = copy.deepcopy(adapter.config)
        for key, value in values.items():
            setattr(config, key, value)
        return sha256_of_adapter(replace(adapter, config=config))

    digests = [
        sha256_of_adapter(adapter),
        sha256_of_adapter(replace(adapter, tensors=adapter.tensors | {name: adapter.tensors[name] + 1e-6})),
        sha256_of_adapter(replace(adapter, tensors={n: t.double() for n, t in adapter.tensors.items()})),
        changed(lora_alpha=77),
        changed(lora_dropout=0.3),
        changed(base_model_name_or_path="other"),
        changed(revision="v2"),
    ]

    assert len(set(digests)) == len(digests)
    assert sha256_of_adapter(replace(adapter, name="elsewhere")) == digests[0]
    assert sha256_of_adapter(adapter) == digests[0]
    assert adapter.tensors[name].dtype == torch.float32
