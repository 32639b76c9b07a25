"""A base model is loaded from data alone: none of its own code is run, nothing pickled is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.finetuning import load_language_model
from gradtx_hf.finetuning.language_model import load_model_config, load_tokenizer
from tests.curation.world import save_model
from tests.tiny import tiny_llama


Make = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", hidden_size=8, num_layers=1, seed=0)


@pytest.fixture(autouse=True)
def _says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every question with yes, as ``yes | gradtx`` would."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))


def add_code(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "own.py").write_text(
        f"open({str(folder / 'was_run')!r}, 'w').close()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        "from transformers import PreTrainedTokenizerFast as Tokenizer\n"
    )


def with_own_model(folder: Path) -> None:
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    add_code(folder, "config.json", model_type="own", auto_map=auto_map)


def with_own_tokenizer(folder: Path) -> None:
    auto_map = {"AutoTokenizer": [None, "own.Tokenizer"]}
    add_code(folder, "tokenizer_config.json", tokenizer_class="Own", auto_map=auto_map)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_llama(hidden_size=8, num_layers=1).state_dict(), folder / "pytorch_model.bin")


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (with_own_model, "' needs code that comes with it (auto_map), which is never run"),
        (with_own_tokenizer, "the tokenizer of model '"),
        (pickled, "has no weights in safetensors files, and pickled ones (.bin, .pt) are not read"),
        (without_tokenizer, "has no tokenizer that can be read"),
    ],
)
def test_a_model_that_is_not_data_alone_is_refused_with_one_line(folder: Path, make: Make, words: str) -> None:
    make(folder)

    with pytest.raises(ConfigurationError) as caught:
        load_language_model(str(folder))

    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "was_run").exists()


def test_configuration_and_tokenizer_alone_run_no_code_either(folder: Path) -> None:
    with_own_model(folder)
    with_own_tokenizer(folder)

    with pytest.raises(ConfigurationError, match="needs code"):
        load_model_config(str(folder))
    with pytest.raises(ConfigurationError, match="needs code"):
        load_tokenizer(str(folder))
    assert not (folder / "was_run").exists()


def test_code_that_generates_is_not_run(folder: Path) -> None:
    add_code(folder, "config.json")
    (folder / "custom_generate").mkdir()
    (folder / "own.py").rename(folder / "custom_generate" / "generate.py")

    load_language_model(str(folder))

    assert not (folder / "was_run").exists()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no_model' is not there"):
        load_model_config(str(tmp_path / "no_model"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_file_asks_for_no_kernels(folder: Path) -> None:
    change_config(folder, attn_implementation="kernels-community/flash-attn", experts_implementation="evil/kernel")

    model, _ = load_language_model(str(folder))

    assert model.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("base", ["evil/repository", "/etc"])
def test_a_model_with_an_adapter_beside_it_is_refused(base: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))

    with pytest.raises(ConfigurationError, match=r"holds an adapter_config\.json"):
        load_language_model(str(folder))


def test_weights_that_the_configuration_names_elsewhere_are_refused(folder: Path) -> None:
    change_config(folder, transformers_weights="../other/model.safetensors")

    with pytest.raises(ConfigurationError, match="names a file of weights"):
        load_language_model(str(folder))


@pytest.mark.parametrize("changes", [{"hidden_size": "x"}, {"id2label": {"x": 1}}, {"model_type": ["llama"]}])
def test_a_configuration_of_wrong_types_is_refused(changes: dict[str, object], folder: Path) -> None:
    change_config(folder, **changes)

    with pytest.raises(ConfigurationError, match=r"cannot be used|no causal language model"):
        load_language_model(str(folder))


def test_damaged_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(ConfigurationError, match=r"weights of model .* are truncated or damaged"):
        load_language_model(str(folder))
