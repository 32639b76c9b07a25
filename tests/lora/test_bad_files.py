"""Damaged or contradictory adapter folders: refused with one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gradtx_hf.errors import MissingFileError
from tests.lora.refusals import change_config, change_tensors, refusal
from tests.tiny import save_tiny_adapter


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a good adapter of rank 2 on q_proj and v_proj of a model of width 16."""
    return save_tiny_adapter(tmp_path)


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def test_a_missing_folder_is_refused(folder: Path) -> None:
    assert "is not there. Give a folder" in refusal(folder / "nowhere", MissingFileError)


def test_a_folder_without_configuration_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()

    assert "is not an adapter: it holds no adapter_config.json" in refusal(folder)


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b"1" * 5_000])
def test_a_configuration_that_is_not_json_is_refused(folder: Path, text: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(text)

    assert "is not JSON" in refusal(folder)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"peft_type": null}', '{"peft_type": ["LORA"]}'])
def test_a_configuration_without_a_type_is_refused(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_text(text)

    assert "names no peft_type" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    weights(folder).unlink()

    assert "has no adapter_model.safetensors. Save it with" in refusal(folder, MissingFileError)


def test_pickled_weights_are_refused_with_a_way_to_convert_them(folder: Path) -> None:
    weights(folder).rename(folder / "adapter_model.bin")

    message = refusal(folder)

    assert "pickled weights (adapter_model.bin), which are not opened here" in message
    assert "save_pretrained(path), which writes safetensors" in message


def test_a_git_lfs_pointer_is_refused(folder: Path) -> None:
    weights(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")

    assert "is a Git-LFS pointer, not the file. Run 'git lfs pull'" in refusal(folder)


@pytest.mark.parametrize("num_bytes", [0, 4, 8, 100, -1])
def test_truncated_weights_are_refused(folder: Path, num_bytes: int) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:num_bytes])

    assert "is truncated or damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"F32"', b'"F99"'), (b'"dtype"', b'"dtypo"'), (b"[0,128]", b"[0,999]"), (b"{", b"["), (b'"shape"', b'"shapf"')],
)
def test_a_corrupt_header_is_refused(folder: Path, old: bytes, new: bytes) -> None:
    content = weights(folder).read_bytes()
    assert old in content
    weights(folder).write_bytes(content.replace(old, new, 1))

    assert "is truncated or damaged" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    tensor = torch.zeros(2, 16)
    tensor[1, 3] = value
    change_tensors(folder, {KEY: tensor})

    assert "q_proj.lora_A' of adapter 'me/tiny' holds NaN or infinite values" in refusal(folder)


def test_a_rank_that_contradicts_the_configuration_is_refused(folder: Path) -> None:
    change_config(folder, r=4)

    assert "has rank 2, but adapter_config.json says 4" in refusal(folder)


def test_factors_of_different_rank_are_refused(folder: Path) -> None:
    change_tensors(folder, {KEY: torch.zeros(3, 16)})

    assert "has rank 3, but adapter_config.json says 2" in refusal(folder)


@pytest.mark.parametrize("factor", ["A", "B"])
def test_a_missing_partner_is_refused(folder: Path, factor: str) -> None:
    change_tensors(folder, {KEY.replace("lora_A", f"lora_{factor}"): None})

    assert f"q_proj.lora_{'B' if factor == 'A' else 'A'}' but not 'model.layers.0" in refusal(folder)


def test_a_target_without_tensors_is_refused(folder: Path) -> None:
    change_config(folder, target_modules=["q_proj", "v_proj", "o_proj"])

    assert "has no tensor for 'o_proj', which adapter_config.json names in target_modules" in refusal(folder)


@pytest.mark.parametrize("targets", [["q_proj"], [], r".*\.q_proj"])
def test_tensors_that_no_target_names_are_refused(folder: Path, targets: object) -> None:
    change_config(folder, target_modules=targets)

    message = refusal(folder)

    assert "which adapter_config.json does not name in target_modules" in message


def test_an_empty_file_of_weights_is_refused(folder: Path) -> None:
    change_tensors(folder, dict.fromkeys(load_file(weights(folder))))

    assert "holds no LoRA tensor" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.weight", "Train a LoRA adapter without it"),
        ("base_model.model.model.embed_tokens.weight", "save_embedding_layers=False"),
        ("base_model.model.model.embed_tokens.base_layer.weight", "save_embedding_layers=False"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "PEFT's keys begin with 'base_model.model.'"),
        ("lora_unet_down.lora_up.weight", "PEFT's keys begin with 'base_model.model.'"),
        ("base_model.model.a\nb", "Train a LoRA adapter without it"),
    ],
)
def test_a_tensor_that_is_no_factor_is_refused(folder: Path, key: str, words: str) -> None:
    change_tensors(folder, {key: torch.zeros(2, 2)})

    message = refusal(folder)

    assert "which is no factor of a plain LoRA" in message
    assert words in message


def test_one_factor_under_two_keys_is_refused(folder: Path) -> None:
    change_tensors(folder, {KEY.removesuffix(".weight"): torch.zeros(2, 16)})

    assert "twice, under two keys" in refusal(folder)


def test_convolution_lora_is_refused(folder: Path) -> None:
    change_tensors(folder, {KEY: torch.zeros(2, 16, 3, 3)})

    assert "has 4 axes, expected 2: convolution LoRA" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_other_number_formats_are_refused(folder: Path, dtype: torch.dtype) -> None:
    change_tensors(folder, {KEY: torch.zeros(2, 16).to(dtype)})

    assert f"is {dtype}, expected one of torch.float32" in refusal(folder)


def test_an_empty_tensor_is_refused(folder: Path) -> None:
    change_tensors(folder, {KEY: torch.zeros(2, 0)})

    assert "is empty, [2, 0]" in refusal(folder)
