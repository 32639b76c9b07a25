from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from safetensors.torch import load
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, pipeline

from gradtx_hf.errors import AdapterError, ConfigurationError, HubError, LayoutError
from gradtx_hf.hub import Destination
from gradtx_hf.hub.readme import END
from gradtx_hf.lora import save_adapter
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator, TranslatedAdapter, publish_adapter_folder
from tests.translation.hub_files import card_of, code_of, repo_files
from tests.translation.hub_pair import LARGE, SMALL, HubPair, put_client_on_hub
from tests.translation.pair import Pair


REPO = "org/adapter"
TOKENS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture(autouse=True)
def _no_repositories(hub: HubServer) -> None:
    for name in (REPO, "org/client", "org/translator"):
        if (repository := hub.store.find("models", name)) is not None:
            hub.store.delete(repository)


@pytest.fixture
def translated(hub_pair: HubPair, clients: list[Path]) -> TranslatedAdapter:
    return hub_pair.translator.translate(hub_pair.client(clients[0]))


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_stock_libraries_load_it(translated: TranslatedAdapter, pair: Pair, tmp_path: Path) -> None:
    translated.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(pair.target)
    expected = logits_of(PeftModel.from_pretrained(base, tmp_path / "adapter"))

    commit = translated.push_to_hub(REPO).commit

    base = AutoModelForCausalLM.from_pretrained(LARGE)
    assert torch.equal(logits_of(PeftModel.from_pretrained(base, REPO, revision=commit)), expected)
    assert torch.equal(logits_of(AutoPeftModelForCausalLM.from_pretrained(REPO)), expected)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(REPO)), expected)
    assert PeftConfig.from_pretrained(REPO).base_model_name_or_path == LARGE


def test_a_pipeline_takes_it(translated: TranslatedAdapter) -> None:
    translated.push_to_hub(REPO)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))

    generate = pipeline("text-generation", REPO, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))

    texts = generate("w1", max_new_tokens=3, do_sample=False)
    assert len(texts[0]["generated_text"].split()) >= 1
    assert any("lora_A" in name for name, _ in generate.model.named_parameters())


def test_files_names_and_settings_are_those_that_vllm_takes(translated: TranslatedAdapter) -> None:
    translated.push_to_hub(REPO)
    files = repo_files(REPO)
    config = json.loads(files["adapter_config.json"])

    assert sorted(files) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "translation.json"]
    assert config["peft_type"] == "LORA"
    assert isinstance(config["r"], int)
    assert isinstance(config["lora_alpha"], int | float)
    assert config["target_modules"] == ["q_proj", "v_proj"]  # a list of last parts, in a fixed order
    assert config["bias"] == "none"
    for refused in ("modules_to_save", "use_dora", "lora_bias", "alpha_pattern", "rank_pattern", "layers_to_transform"):
        assert not config.get(refused), refused
    tensors = load(files["adapter_model.safetensors"])
    key = re.compile(
        r"base_model\.model\.(?P<module>model\.layers\.\d+\.self_attn\.(q|v)_proj)\.lora_(?P<side>A|B)\.weight"
    )
    matches = [key.fullmatch(name) for name in tensors]
    assert all(matches)
    assert len(tensors) == 2 * len({match["module"] for match in matches if match})
    assert {tensor.shape[0 if ".lora_A." in name else 1] for name, tensor in tensors.items()} == {config["r"]}


def test_the_card_names_what_it_was_made_from_by_commit(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    client = put_client_on_hub(hub, hub_pair, clients[0], tmp_path)
    translator = hub_pair.translator.push_to_hub("org/translator").commit

    PeftTranslator.from_pretrained("org/translator").translate("org/client").push_to_hub(REPO)

    metadata, body = card_of(REPO)
    assert metadata["library_name"] == "peft"
    assert metadata["base_model"] == LARGE
    assert metadata["base_model_relation"] == "adapter"
    assert metadata["pipeline_tag"] == "text-generation"
    assert {"gradtx_hf", "gradtx-translated"} <= set(metadata["tags"])
    assert metadata["gradtx_hf"] == {
        "kind": "translated-adapter",
        "base_model": {"id": LARGE, "revision": hub_pair.commits[LARGE]},
        "fingerprint": hub_pair.translator.target_init.layout.fingerprint,
        "translator": f"org/translator@{translator}",
        "source_adapters": [f"org/client@{client}"],
        "source_base_model": SMALL,
    }
    assert f"`org/client` at commit `{client}`" in body
    assert f"`org/translator` at commit `{translator}`" in body
    assert "generated, not trained" in body
    assert "No differential privacy is stated for `org/client`." in body
    report = json.loads(repo_files(REPO)["translation.json"])
    assert report["adapters"][0]["commit"] == client


def test_several_adapters_are_all_named(hub_pair: HubPair, clients: list[Path]) -> None:
    adapters = [hub_pair.client(client) for client in clients[:3]]

    hub_pair.translator.translate(adapters, aggregation="sum", weights=[1, 2, 3]).push_to_hub(REPO)

    metadata, body = card_of(REPO)
    assert metadata["gradtx_hf"]["aggregation"] == "sum"
    assert metadata["gradtx_hf"]["source_adapters"] == ["local adapter 1", "local adapter 2", "local adapter 3"]
    assert "from 3 adapters" in body
    assert "Aggregated by `sum`" in body


def test_what_a_client_states_of_its_privacy_is_passed_on(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    statement = json.dumps({"epsilon": 2.5, "delta": 1e-5, "accountant": "prv", "sigma": 1.1}).encode()
    put_client_on_hub(hub, hub_pair, clients[0], tmp_path, **{"privacy.json": statement})

    hub_pair.translator.translate("org/client").push_to_hub(REPO)

    assert "ε = 2.5 at δ = 1e-05, accountant prv" in card_of(REPO)[1]


def test_a_license_is_written_when_it_is_given_and_stays_after_that(translated: TranslatedAdapter) -> None:
    translated.push_to_hub(REPO)
    assert "license" not in card_of(REPO)[0]

    translated.push_to_hub(REPO, license_id="apache-2.0")
    translated.push_to_hub(REPO, commit_message="again")

    assert card_of(REPO)[0]["license"] == "apache-2.0"
    with pytest.raises(ConfigurationError, match="got license 'Mine: all', expected its id on the Hub"):
        translated.push_to_hub(REPO, license_id="Mine: all")


def test_adapters_are_kept_where_cache_dir_says(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "client").mkdir()
    put_client_on_hub(hub, hub_pair, clients[0], tmp_path / "client")
    hub_pair.translator.push_to_hub("org/translator")

    translator = PeftTranslator.from_pretrained("org/translator", cache_dir=tmp_path / "cache")
    translator.translate("org/client", cache_dir=tmp_path / "cache")

    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert {"models--org--translator", "models--org--client"} <= kept


def test_what_a_client_states_cannot_leave_its_place_in_the_card(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    accountant = f"prv\n\n{END}\n\n# Heading <img src=x>"
    statement = json.dumps({"epsilon": 2.5, "delta": 1e-5, "accountant": accountant}).encode()
    put_client_on_hub(hub, hub_pair, clients[0], tmp_path, **{"privacy.json": statement})
    translated = hub_pair.translator.translate("org/client")

    translated.push_to_hub(REPO)

    body = card_of(REPO)[1]
    assert body.count(END) == 1
    assert "\n# Heading" not in body
    assert " <img" not in body
    assert not translated.push_to_hub(REPO).is_changed


@pytest.mark.parametrize(
    "statement",
    [
        {"epsilon": -1, "delta": 0},
        {"epsilon": 1, "delta": 0, "accountant": "x" * 301},
        {"epsilon": "2", "delta": 0},
        {"epsilon": 1, "delta": 2},
        {"epsilon": True, "delta": 0},
        {},
    ],
)
def test_a_senseless_statement_of_privacy_is_refused(
    hub: HubServer, hub_pair: HubPair, clients: list[Path], tmp_path: Path, statement: dict[str, object]
) -> None:
    content = json.dumps(statement).encode()
    put_client_on_hub(hub, hub_pair, clients[0], tmp_path, **{"privacy.json": content})

    with pytest.raises(AdapterError, match=r"privacy.json of 'org/client' states"):
        hub_pair.translator.translate("org/client")


def test_nothing_of_this_machine_leaves_it(hub_pair: HubPair, pair: Pair, clients: list[Path]) -> None:
    translator = replace(hub_pair.translator, name=str(pair.translator))
    translated = translator.translate(clients[0], allow_other_base=True)
    assert str(clients[0]) in json.dumps(translated.report)

    translated.report["warnings"].append(f"adapter '{clients[0]}' lies off the map")
    translated.push_to_hub(REPO)

    for name, content in repo_files(REPO).items():
        assert b"/tmp" not in content, name
        assert clients[0].name.encode() not in content, name
        assert clients[0].parent.name.encode() not in content, name
    assert "adapter 'local adapter 1' lies off the map" in card_of(REPO)[1]


def test_the_card_runs_as_printed(translated: TranslatedAdapter) -> None:
    translated.push_to_hub(REPO)
    names: dict[str, Any] = {}

    (block,) = code_of(card_of(REPO)[1])
    exec(block, names)

    assert isinstance(names["model"], PeftModel)


def test_the_card_of_a_branch_runs_as_printed(translated: TranslatedAdapter) -> None:
    translated.push_to_hub(REPO, revision="next")
    names: dict[str, Any] = {}

    (block,) = code_of(card_of(REPO, revision="next")[1])
    exec(block, names)

    assert 'revision="next"' in block


def test_a_local_base_model_is_refused_or_renamed(pair: Pair, clients: list[Path], hub_pair: HubPair) -> None:
    translated = PeftTranslator.from_pretrained(pair.translator).translate(clients[0])

    with pytest.raises(ConfigurationError, match="which nobody else can find"):
        translated.push_to_hub(REPO)
    translated.push_to_hub(REPO, base_model=f"{LARGE}@{hub_pair.commits[LARGE]}")

    config = json.loads(repo_files(REPO)["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (LARGE, hub_pair.commits[LARGE])


def test_a_saved_folder_is_published_the_same(translated: TranslatedAdapter, tmp_path: Path) -> None:
    first = translated.push_to_hub(REPO)
    translated.save_pretrained(tmp_path / "adapter")

    again = publish_adapter_folder(tmp_path / "adapter", Destination(REPO))

    assert again == replace(first, is_changed=False)


def test_an_adapter_that_was_not_translated_has_a_card_of_its_own(
    hub_pair: HubPair, clients: list[Path], tmp_path: Path
) -> None:
    adapter = hub_pair.client(clients[0])
    save_adapter(tmp_path, config=adapter.config, tensors=adapter.tensors)
    (tmp_path / "README.md").write_text("PEFT's own card")
    (tmp_path / "privacy.json").write_text('{"epsilon": 1, "delta": 0}')

    publish_adapter_folder(tmp_path, Destination("org/client"))

    metadata, body = card_of("org/client")
    assert metadata["base_model"] == SMALL
    assert "gradtx-translated" not in metadata["tags"]
    assert "ε = 1 at δ = 0" in body
    assert sorted(repo_files("org/client")) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "privacy.json",
    ]
    assert HfApi().model_info("org/client").private


@pytest.mark.parametrize(
    ("values", "saying"),
    [
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ('{"a": NaN}', "NaN"),
        ("{}", "not what gradtx translate writes"),
        ('{"translator": {"name": "x", "commit": null}, "adapters": []}', "not what gradtx translate writes"),
    ],
)
def test_a_damaged_report_is_refused(translated: TranslatedAdapter, tmp_path: Path, values: str, saying: str) -> None:
    translated.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "translation.json").write_text(values)

    with pytest.raises(LayoutError, match=saying):
        publish_adapter_folder(tmp_path / "adapter", Destination(REPO))


def test_it_is_not_written_over_someone_elses_adapter(
    hub: HubServer, hub_pair: HubPair, translated: TranslatedAdapter, clients: list[Path], tmp_path: Path
) -> None:
    commit = put_client_on_hub(hub, hub_pair, clients[0], tmp_path)

    with pytest.raises(HubError, match="not to write over"):
        translated.push_to_hub("org/client")

    assert HfApi().model_info("org/client").sha == commit
