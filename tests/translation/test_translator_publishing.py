from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from gradtx_hf import GradTransformerConfig, GradTransformerModel
from gradtx_hf.errors import ConfigurationError, DataError, HubError, MissingFileError
from gradtx_hf.hub.readme import BEGIN
from gradtx_hf.lora import Adapter
from gradtx_hf.playground import translator_path
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import BlockLayout
from tests.hubs import ALICE, BOB
from tests.translation.hub_files import card_of, code_of, repo_files
from tests.translation.hub_pair import LARGE, SMALL, HubPair
from tests.translation.pair import Pair, make_model


REPO = "org/translator"
REPORTS = Path(__file__).parents[2] / "examples" / "results"
TRAINING: dict[str, Any] = {
    "arguments": {"objective": "functional", "max_steps": 7, "num_train_epochs": 30, "store": "/home/me/store"},
    "store": {
        "num_shadow_sets": 3,
        "data": [
            {
                "label": "a",
                "path": "org/data",
                "is_local": False,
                "split": "train",
                "revision": "c" * 40,
                "num_rows": 9,
            },
            {"label": "/home/me/b.jsonl", "path": "b.jsonl", "is_local": True, "num_rows": 5},
        ],
    },
    "parts": {"whole": {"num_steps": 7, "metrics": {"eval_loss": 0.5}}},
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture(autouse=True)
def _no_repositories(hub: HubServer) -> None:
    for name in (REPO, "org/embedded", "org/model"):
        if (repository := hub.store.find("models", name)) is not None:
            hub.store.delete(repository)


def load_report(name: str = "real_text") -> dict[str, Any]:
    return json.loads((REPORTS / f"{name}.json").read_text())


def part_of(init: Adapter, name: str) -> BlockLayout:
    return BlockLayout.from_shapes({key: shape for key, shape in init.layout.shapes.items() if name in key})


def test_a_license_is_written_when_it_is_given(hub_pair: HubPair) -> None:
    hub_pair.translator.push_to_hub(REPO)
    assert "license" not in card_of(REPO)[0]

    hub_pair.translator.push_to_hub(REPO, license_id="mit")

    assert card_of(REPO)[0]["license"] == "mit"


def test_one_commit_holds_all_of_it(hub_pair: HubPair) -> None:
    translator = replace(hub_pair.translator, training=TRAINING)

    published = translator.push_to_hub(REPO, report=load_report())

    assert sorted(repo_files(REPO)) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "report.json",
        "source_init/adapter_config.json",
        "source_init/adapter_model.safetensors",
        "target_init/adapter_config.json",
        "target_init/adapter_model.safetensors",
        "training.json",
    ]
    assert HfApi().model_info(REPO).sha == published.commit
    assert HfApi().model_info(REPO).private


def test_what_comes_back_translates_the_same_and_goes_out_again_without_loss(
    hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    report = load_report()
    translator = replace(hub_pair.translator, training=TRAINING)
    published = translator.push_to_hub(REPO, report=report)

    loaded = PeftTranslator.from_pretrained(REPO)

    assert loaded.commit == published.commit
    client = hub_pair.client(clients[0])
    before, after = translator.translate(client), loaded.translate(client)
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    loaded.save_pretrained(tmp_path / "again")
    assert PeftTranslator.from_pretrained(tmp_path / "again").push_to_hub(REPO) == replace(published, is_changed=False)


def test_a_translator_of_several_parts_with_an_input_distance_survives(hub_pair: HubPair) -> None:
    embedded = PeftTranslator.from_pretrained(translator_path())
    published = embedded.push_to_hub("org/embedded")

    loaded = PeftTranslator.from_pretrained("org/embedded", revision=published.commit)

    assert loaded.input_distance is not None
    assert embedded.input_distance is not None
    assert loaded.input_distance.limit == embedded.input_distance.limit
    assert loaded.training == embedded.training
    assert "from gradtx_hf.playground import source_path" in card_of("org/embedded")[1]
    assert loaded.push_to_hub("org/embedded").is_changed is False


def test_the_card_says_what_is_known_and_nothing_else(hub_pair: HubPair) -> None:
    replace(hub_pair.translator, training=TRAINING).push_to_hub(REPO, report=load_report())
    metadata, body = card_of(REPO)

    assert metadata["library_name"] == "gradtx_hf"
    assert metadata["base_model"] == [SMALL, LARGE]
    assert metadata["base_model_relation"] == "adapter"
    assert metadata["datasets"] == ["org/data"]
    assert {"gradtx_hf", "gradtx-translator"} <= set(metadata["tags"])
    assert "license" not in metadata
    ours = metadata["gradtx_hf"]
    assert ours["source_base_model"] == {"id": SMALL, "revision": hub_pair.commits[SMALL]}
    assert ours["datasets"] == [{"id": "org/data", "revision": "c" * 40}]
    seen, unseen = metadata["model-index"][0]["results"]
    assert seen["metrics"][0] == {
        "type": "gain_recovered",
        "name": "gain recovered, translated",
        "value": pytest.approx(1.0116, abs=1e-4),
    }
    assert unseen["dataset"]["type"] == "unseen_tasks"
    assert "## Results" in body
    assert "**At least as good as the translated adapter: `source_client`.**" in body
    assert "| shuffled input | 2.888 [2.551, 3.248] |" in body
    assert f"Large model: `{LARGE}` at commit `{hub_pair.commits[LARGE]}`" in body
    assert "| …/b.jsonl | local files | `-` | `-` | 5 |" in body
    assert "is not a privacy guarantee" in body
    assert "arXiv 2605.27591" in body


def test_without_training_and_results_the_card_has_no_such_sections(hub_pair: HubPair) -> None:
    hub_pair.translator.push_to_hub(REPO)
    metadata, body = card_of(REPO)

    assert not {"## Results", "## Training", "## Data"} & set(body.splitlines())
    assert "model-index" not in metadata
    assert "nothing is known about how well it translates" in body


def test_nothing_of_this_machine_leaves_it(hub_pair: HubPair, pair: Pair) -> None:
    report = load_report() | {"command": "gradtx evaluate --config /home/me/eval.yaml", "config": {"x": "/home/me/y"}}
    translator = replace(hub_pair.translator, training=TRAINING | {"token": ALICE})

    translator.push_to_hub(REPO, report=report)

    for name, content in repo_files(REPO).items():
        for private in (b"/home/me", ALICE.encode(), str(pair.source.parent).encode()):
            assert private not in content, name


def test_a_local_base_model_is_refused_or_renamed(hub_pair: HubPair, pair: Pair) -> None:
    local = PeftTranslator.from_pretrained(pair.translator)

    with pytest.raises(ConfigurationError, match="--source-model ID --target-model ID") as refused:
        local.push_to_hub(REPO)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="expected one of"):
        local.push_to_hub(REPO, base_models={"org/other": SMALL})
    local.push_to_hub(
        REPO, base_models={str(pair.source): f"{SMALL}@{hub_pair.commits[SMALL]}", str(pair.target): LARGE}
    )

    loaded = PeftTranslator.from_pretrained(REPO)
    assert (loaded.source_init.base_model, loaded.source_init.config.revision) == (SMALL, hub_pair.commits[SMALL])
    assert (loaded.target_init.base_model, loaded.target_init.config.revision) == (LARGE, None)
    assert local.source_init.base_model == str(pair.source)
    assert "(commit not recorded)" in card_of(REPO)[1]


def test_the_card_runs_as_printed(hub_pair: HubPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_pair.translator.push_to_hub(REPO)
    _, body = card_of(REPO)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    for block in code_of(body):
        exec(block, names)

    assert len(code_of(body)) == 3
    tokens = torch.tensor([[1, 2, 3]])
    logits = names["model"](tokens).logits
    with names["model"].disable_adapter():
        assert not torch.equal(names["model"](tokens).logits, logits)


def test_stock_classes_load_the_model_from_the_repository(hub_pair: HubPair, tmp_path: Path) -> None:
    first = hub_pair.translator.push_to_hub(REPO)
    hub_pair.translator.push_to_hub(REPO, revision="a/branch", commit_message="elsewhere")
    expected = hub_pair.translator.parts[""].state_dict()

    for load in (GradTransformerModel.from_pretrained, AutoModel.from_pretrained):
        for options in (
            {},
            {"revision": first.commit},
            {"revision": "a/branch"},
            {"token": ALICE, "cache_dir": tmp_path / "cache"},
            {"local_files_only": True},
        ):
            state = load(REPO, **options).state_dict()  # type: ignore[operator]
            assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert isinstance(AutoConfig.from_pretrained(REPO), GradTransformerConfig)
    assert PeftConfig.from_pretrained(REPO, subfolder="source_init").base_model_name_or_path == SMALL


def test_parts_are_found_by_subfolder(hub_pair: HubPair) -> None:
    whole = hub_pair.translator
    parts = {
        name: make_model(part_of(whole.source_init, name), part_of(whole.target_init, name))
        for name in ("q_proj", "v_proj")
    }
    replace(whole, model=parts).push_to_hub(REPO)

    for load in (GradTransformerModel.from_pretrained, AutoModel.from_pretrained):
        state = load(REPO, subfolder="parts/v_proj").state_dict()  # type: ignore[operator]
        assert all(torch.equal(state[name], value) for name, value in parts["v_proj"].state_dict().items())
    assert list(PeftTranslator.from_pretrained(REPO).parts) == ["q_proj", "v_proj"]
    assert "`parts/q_proj/`, `parts/v_proj/`" in card_of(REPO)[1]

    whole.push_to_hub(REPO)  # whole again: the parts go with the same commit

    assert not [name for name in repo_files(REPO) if name.startswith("parts/")]


def test_a_model_alone_has_a_card_of_its_own(hub_pair: HubPair) -> None:
    model = hub_pair.translator.parts[""]

    model.push_to_hub("org/model", license_id="apache-2.0")

    metadata, body = card_of("org/model")
    assert metadata["library_name"] == "gradtx_hf"
    assert metadata["license"] == "apache-2.0"
    assert "base_model" not in metadata
    assert "a model that is not recorded" in body
    assert sorted(repo_files("org/model")) == ["README.md", "config.json", "model.safetensors"]
    with pytest.raises(HubError, match="holds a model of gradtx"):
        hub_pair.translator.push_to_hub("org/model")


def test_a_client_starts_from_the_repository_with_stock_peft(hub_pair: HubPair) -> None:
    hub_pair.translator.push_to_hub(REPO)
    base = AutoModelForCausalLM.from_pretrained(SMALL)

    model = PeftModel.from_pretrained(base, REPO, subfolder="source_init", is_trainable=True)

    assert model.active_peft_config.revision == hub_pair.commits[SMALL]


def test_a_new_push_changes_the_generated_part_alone(hub_pair: HubPair) -> None:
    hub_pair.translator.push_to_hub(REPO)
    text = repo_files(REPO)["README.md"].decode().replace(BEGIN, f"Words of mine.\n\n{BEGIN}")
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=REPO)

    hub_pair.translator.push_to_hub(REPO, report=load_report())

    _, body = card_of(REPO)
    assert body.startswith("\nWords of mine.\n\n<!--")
    assert "## Results" in body
    hub_pair.translator.push_to_hub(REPO)
    assert "report.json" not in repo_files(REPO)  # which was of an earlier push
    assert repo_files(REPO)["README.md"].decode() == text


def test_a_report_is_found_in_its_folder(hub_pair: HubPair, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(load_report("quickstart_seed_0")))

    hub_pair.translator.push_to_hub(REPO, report=tmp_path)

    assert "## Results" in card_of(REPO)[1]
    with pytest.raises(MissingFileError, match="there is no report"):
        hub_pair.translator.push_to_hub(REPO, report=tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="no report"):
        hub_pair.translator.push_to_hub(REPO, report={"summary": {}})


def test_others_may_not_see_it(hub_pair: HubPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub_pair.translator.push_to_hub(REPO)
    monkeypatch.setenv("HF_TOKEN", BOB)

    with pytest.raises(MissingFileError, match="that you may read"):
        PeftTranslator.from_pretrained(REPO, cache_dir=tmp_path)

    assert PeftTranslator.from_pretrained(REPO, token=ALICE, cache_dir=tmp_path).name == REPO
