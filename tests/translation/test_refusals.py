from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gradtx_hf.errors import (
    AdapterError,
    ConfigurationError,
    GradTxError,
    LayoutError,
    MissingFileError,
    OutputExistsError,
)
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import PeftTranslator
from tests.tiny import save_tiny_adapter, tiny_llama
from tests.translation.pair import Pair, make_model, save_changed


def refusal(error: type[GradTxError], act: Callable[[], object]) -> str:
    """Return the one line that something is refused with."""
    with pytest.raises(error) as caught:
        act()
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    return message


def test_another_start_is_refused_with_its_distance(pair: Pair, translator: PeftTranslator, tmp_path: Path) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, seed=77)

    message = refusal(AdapterError, lambda: translator.translate(other))

    distance = translator.read(other, allow_other_start=True).alignment.start_distance
    assert f"(distance {distance:.2f}, at most 0.50)" in message
    assert "--allow-other-start" in message


def test_a_wrong_base_model_is_refused_by_its_name(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    tensors = load_adapter(clients[0]).tensors
    renamed = save_changed(clients[0], tmp_path / "renamed", tensors, base_model_name_or_path="org/renamed")

    message = refusal(AdapterError, lambda: translator.translate(renamed))

    assert f"'org/renamed', translator '{pair.translator}' is for '{pair.source}'" in message
    assert "--allow-other-base" in message
    assert translator.translate(renamed, allow_other_base=True).report["adapters"]


@pytest.mark.parametrize(
    ("shape", "modules", "words"),
    [
        ({}, ("q_proj", "k_proj"), "it adapts k_proj, q_proj, expected q_proj, v_proj. Train it with target_modules="),
        ({}, ("q_proj",), "it adapts q_proj, expected q_proj, v_proj"),
        ({"num_layers": 3}, ("q_proj", "v_proj"), "(3 blocks, expected 2 blocks)"),
        ({"hidden_size": 20}, ("q_proj", "v_proj"), "maps 20 to 20 features, expected 16 to 16"),
        ({"num_kv_heads": 2}, ("q_proj", "v_proj"), "v_proj' maps 16 to 16 features, expected 16 to 8"),
    ],
)
def test_another_layout_is_refused_with_the_difference(
    translator: PeftTranslator,
    shape: dict[str, int],
    modules: tuple[str, ...],
    words: str,
    tmp_path: Path,
) -> None:
    tiny_llama(**shape).save_pretrained(tmp_path / "base")
    other = save_tiny_adapter(tmp_path / "other", base=tmp_path / "base", target_modules=modules)

    message = refusal(LayoutError, lambda: translator.translate(other, allow_other_base=True))

    assert words in message
    assert str(other) in message
    assert f"of base model '{tmp_path / 'base'}'" in message


def test_embeddings_are_refused_by_a_translator_without_a_token_kind_for_them(
    pair: Pair, translator: PeftTranslator, tmp_path: Path
) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, target_modules=("q_proj", "v_proj", "embed_tokens"))

    assert "it adapts embed_tokens, q_proj, v_proj" in refusal(LayoutError, lambda: translator.translate(other))


def test_no_adapter_is_refused(translator: PeftTranslator) -> None:
    assert "at least one" in refusal(ConfigurationError, lambda: translator.translate([]))


def test_weights_for_another_number_of_adapters_are_refused(translator: PeftTranslator, clients: list[Path]) -> None:
    message = refusal(ConfigurationError, lambda: translator.translate(clients[:2], weights=[1, 2, 3]))

    assert message == "got 3 weights for 2 adapters, expected one each."


def test_an_adapter_too_large_to_be_translated_is_refused(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    tensors = {
        name: torch.full_like(tensor, 3e38) if "lora_B" in name else tensor
        for name, tensor in load_adapter(clients[0]).tensors.items()
    }
    huge = save_changed(clients[0], tmp_path / "huge", tensors)

    assert "NaN or infinite" in refusal(AdapterError, lambda: translator.translate(huge))


def test_a_folder_with_something_in_it_is_left_alone(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    translated = translator.translate(clients[0])

    for save in (translated.save_pretrained, translator.save_pretrained):
        assert "exists and is not empty" in refusal(OutputExistsError, lambda save=save: save(tmp_path / "mine"))

    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_what_is_no_translator_is_refused(pair: Pair, clients: list[Path], tmp_path: Path) -> None:
    for folder in (pair.source, clients[0], tmp_path):
        message = refusal(MissingFileError, lambda folder=folder: PeftTranslator.from_pretrained(folder))
        assert f"'{folder}' is no translator: it has no source_init/ and no target_init/" in message


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["start_token"][0] = float("nan")


DAMAGES: dict[str, tuple[type[GradTxError], Callable[[Path], object]]] = {
    "has no model.safetensors": (MissingFileError, lambda f: (f / "model.safetensors").unlink()),
    "is truncated or damaged": (
        LayoutError,
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
    ),
    "is a Git-LFS pointer": (
        LayoutError,
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ),
    "holds NaN or infinite": (LayoutError, lambda f: rewrite_weights(f, poison)),
    "has missing weight 'start_token'": (
        LayoutError,
        lambda f: rewrite_weights(f, lambda tensors: tensors.__delitem__("start_token")),
    ),
    "is not JSON": (LayoutError, lambda f: (f / "config.json").write_text("{")),
    "has model_type 'llama', expected 'grad_transformer'": (
        LayoutError,
        lambda f: (f / "config.json").write_text('{"model_type": "llama"}'),
    ),
    "has no target_init/": (MissingFileError, lambda f: shutil.rmtree(f / "target_init")),
    "it has no config.json": (MissingFileError, lambda f: (f / "config.json").unlink()),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_translator_is_refused(words: str, pair: Pair, tmp_path: Path) -> None:
    error, damage = DAMAGES[words]
    folder = tmp_path / "translator"
    shutil.copytree(pair.translator, folder)
    damage(folder)

    message = refusal(error, lambda: PeftTranslator.from_pretrained(folder))

    assert words in message
    assert str(folder) in message


@pytest.mark.parametrize("side", ["source", "target"])
def test_inits_that_do_not_fit_the_model_are_refused(
    side: str, pair: Pair, translator: PeftTranslator, tmp_path: Path
) -> None:
    folder = tmp_path / "translator"
    shutil.copytree(pair.translator, folder)
    shutil.rmtree(folder / f"{side}_init")
    save_tiny_adapter(folder / f"{side}_init", base=getattr(pair, side), target_modules=("q_proj", "o_proj"))

    message = refusal(LayoutError, lambda: PeftTranslator.from_pretrained(folder))

    assert f"{side}_init of translator '{folder}' does not fit: it adapts o_proj, q_proj" in message


def test_two_parts_for_the_same_tensors_are_refused(translator: PeftTranslator) -> None:
    source, target = translator.source_init, translator.target_init
    models = {name: make_model(source.layout, target.layout) for name in ("a", "b")}

    message = refusal(LayoutError, lambda: PeftTranslator(models, source, target))

    assert "two parts of translator 'translator' generate the same target tensors" in message
