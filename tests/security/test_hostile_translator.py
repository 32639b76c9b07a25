"""A stranger's translator decides nothing but the model that it is: no code, no other file, no other repository."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from gradtx_hf.errors import AdapterError, ConfigurationError, GradTxError, LayoutError
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.playground.hub_server import HubServer
from gradtx_hf.translation import PeftTranslator
from tests.hubs import add_repository
from tests.model.blocks import make_layout
from tests.model.test_t5 import save_flan_t5
from tests.security.folders import Folders, make_folders
from tests.security.guard import watched
from tests.security.mutations import HOSTILE_FIELDS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(folders: Folders, tmp_path: Path) -> Path:
    """Return a good translator's folder, to be spoilt."""
    shutil.copytree(folders.translator, tmp_path / "translator")
    return tmp_path / "translator"


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path, error: type[GradTxError] = LayoutError) -> str:
    """Return what a translator is refused with, after a look at what else happened: nothing."""
    with watched(folder) as seen, pytest.raises(error) as caught:
        PeftTranslator.from_pretrained(folder)
    assert seen.misdeeds == []
    return str(caught.value)


@pytest.mark.parametrize("field", sorted(set(HOSTILE_FIELDS) - {"model_type", "dtype", "torch_dtype"}))
def test_a_field_that_is_not_ours_decides_nothing(field: str, folder: Path) -> None:
    good = PeftTranslator.from_pretrained(folder).parts[""]
    change_config(folder, **{field: HOSTILE_FIELDS[field]})

    with watched(folder) as seen:
        model = PeftTranslator.from_pretrained(folder).parts[""]
        config = AutoConfig.from_pretrained(folder) if field != "configuration_files" else model.config

    assert seen.misdeeds == []
    assert model.config.to_dict() == good.config.to_dict()
    assert config.to_diff_dict().items() <= good.config.to_diff_dict().items()
    assert all(torch.equal(value, good.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_a_number_format_that_is_none_is_refused(field: str, folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values.pop("dtype")
    (folder / "config.json").write_text(json.dumps(values | {field: "load"}))

    assert "got dtype='load', expected one of float32" in refusal(folder, ConfigurationError)


def test_an_adapter_beside_a_model_leads_to_no_other_repository(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "evil/repository"}')

    with watched(folder) as seen:
        GradTransformerModel.from_pretrained(folder)

    assert seen.misdeeds == []


def test_a_repository_with_an_adapter_in_it_leads_to_no_other(folder: Path, hub: HubServer, tmp_path: Path) -> None:
    names = ("config.json", "model.safetensors")
    files = {name: (folder / name).read_bytes() for name in names}
    add_repository(hub, "org/both", files | {"adapter_config.json": b'{"base_model_name_or_path": "evil/repository"}'})

    model = GradTransformerModel.from_pretrained("org/both", cache_dir=tmp_path)

    assert model.name_or_path == "org/both"
    assert not any("evil" in str(request) for request in hub.requests)


@pytest.mark.parametrize(
    "place", ["../outside/model-00001-of-00001.safetensors", "/etc/passwd", "other.safetensors", 3]
)
def test_an_index_that_names_other_files_is_refused(place: object, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"start_token": place}}))

    assert "names no files such as model-00001-of-00002.safetensors" in refusal(folder)


def test_weights_in_two_files_are_read(folder: Path) -> None:
    good = load_file(folder / "model.safetensors")
    names = sorted(good)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, keys in shards.items():
        save_file({key: good[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()

    model = PeftTranslator.from_pretrained(folder).parts[""]

    assert all(torch.equal(value, good[name]) for name, value in model.state_dict().items())


ABSURD: dict[str, dict[str, Any]] = {
    "asks for 1048577 layers and 2 token kinds, its weights are": {"num_layers": 2**20, "num_decoder_layers": 1},
    "a whole number from 1 to 1048576": {"num_layers": 10**400},
    "has mismatched weight 'W_S_emb.": {"d_model": 2**20},
    "expected at least 4 buckets": {"relative_attention_num_buckets": 1},
    "and a distance of more than half as much": {"relative_attention_max_distance": 16},
    "got t5 field layer_norm_epsilon=1000": {"layer_norm_epsilon": 10**400},
    "got t5 field dropout_rate=nan": {"dropout_rate": float("nan")},
}


@pytest.mark.parametrize("words", ABSURD)
def test_a_transformer_that_the_weights_do_not_bear_out_is_refused(words: str, folder: Path) -> None:
    t5 = json.loads((folder / "config.json").read_text())["t5"]
    change_config(folder, t5=t5 | ABSURD[words])

    assert words in refusal(folder, GradTxError)


def test_attention_over_too_many_blocks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtx_hf.model.weights.MAX_SCORES", 7)  # two heads over two blocks have 8

    assert "asks for 2 attention heads over 2 blocks, more than are run here" in refusal(folder)


def test_a_linear_path_that_the_weights_do_not_bear_out_is_refused(folder: Path) -> None:
    change_config(folder, linear_rank=2**20)

    assert "has mismatched weight 'linear_path.down.weight'" in refusal(folder)


@pytest.mark.parametrize("shape", [[2**40, 2**40], [10**300, 1], [1] * 9, [-1, 4], ["2", []]])
def test_a_layout_that_the_weights_do_not_bear_out_is_refused(shape: list[Any], folder: Path) -> None:
    blocks = json.loads((folder / "config.json").read_text())["source_blocks"]
    blocks["blocks"][0]["tensors"][0][2] = shape
    change_config(folder, source_blocks=blocks, source_fingerprint=None)

    assert refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn])
def test_weights_of_another_number_format_are_refused(dtype: torch.dtype, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["start_token"] = tensors["start_token"].to(dtype)
    save_file(tensors, folder / "model.safetensors")

    assert "weight 'start_token' of translator" in refusal(folder)


def link_out(folder: Path, name: str) -> None:
    moved = folder.parent / "outside" / name
    moved.parent.mkdir(parents=True, exist_ok=True)
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)


NAMES = [
    "config.json",
    "model.safetensors",
    "source_init",
    "input_distance.safetensors",
    "source_init/adapter_config.json",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_link_that_leads_out_of_the_folder_is_not_followed(name: str, folder: Path) -> None:
    link_out(folder, name)

    assert f"{Path(name).name} of " in (message := refusal(folder, GradTxError))
    assert "is a link that leads out of its folder, which is not followed" in message


def test_a_part_that_leads_out_of_the_folder_is_not_followed(folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(folders.parts, tmp_path / "parts")
    link_out(tmp_path / "parts", "parts/q_proj")

    assert "parts/q_proj/config.json of translator" in refusal(tmp_path / "parts")


def header_bomb(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(struct.pack("<Q", length) + b"{" + b" " * 100)  # type: ignore[func-returns-value]


def rewrite_header(change: Callable[[dict[str, Any]], object], *, data: bool = True) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + (content[end:] if data else b""))

    return act


def name_twice(path: Path) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text = b"{" + content[8:end].strip()[1:-1] + b"," + content[8:end].strip()[1:]
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[end:])


OF_THE_MODEL = ("with overlapping tensors", "with an offset past the end", "with a nested shape")
BOMBS: dict[str, Callable[[Path], None]] = {
    "of a gigabyte": header_bomb(2**30),
    "of all the memory there is": header_bomb(2**64 - 1),
    "with a key twice": name_twice,
    "with a huge tensor of no data": rewrite_header(
        lambda h: h.update(bomb={"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 0]})
    ),
    "with overlapping tensors": rewrite_header(lambda h: h["start_token"].update(data_offsets=[0, 32])),
    "with an offset past the end": rewrite_header(lambda h: h["start_token"].update(data_offsets=[2**60, 2**60 + 32])),
    "without data": rewrite_header(lambda h: None, data=False),
    "with a nested shape": rewrite_header(lambda h: h["start_token"].update(shape=[[8]])),
    "nested deeply": rewrite_header(lambda h: h.update(deep=json.loads("[" * 60 + "]" * 60))),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_of_the_model(bomb: str, folder: Path) -> None:
    BOMBS[bomb](folder / "model.safetensors")

    assert "model.safetensors of translator " in (message := refusal(folder))
    assert "is truncated or damaged" in message


@pytest.mark.parametrize("bomb", sorted(name for name in BOMBS if name not in OF_THE_MODEL))
def test_a_header_of_an_adapter(bomb: str, folder: Path) -> None:
    BOMBS[bomb](folder / "source_init" / "adapter_model.safetensors")

    assert "is truncated or damaged" in refusal(folder, AdapterError)


def test_a_flood_of_small_tensors_is_refused_before_they_are_read(folder: Path) -> None:
    flood = {f"t{i}" + "x" * 900: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}
    text = json.dumps(flood).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)

    assert "at most 8388608 are read" in refusal(folder)


def test_from_t5_takes_the_shape_alone_from_the_configuration(tmp_path: Path) -> None:
    save_flan_t5(tmp_path)
    hostile = {name: value for name, value in HOSTILE_FIELDS.items() if name not in ("model_type", "dtype")}
    change_config(tmp_path, **hostile)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/repository"}')
    layout = make_layout(2, 3)

    with watched(tmp_path) as seen:
        model = GradTransformerModel.from_t5(tmp_path, source_layout=layout, target_layout=layout)

    assert seen.misdeeds == []
    assert model.config.t5["d_model"] == 24  # type: ignore[index]


def test_a_t5_of_absurd_depth_is_refused(tmp_path: Path) -> None:
    save_flan_t5(tmp_path)
    change_config(tmp_path, num_layers=2**20)

    with pytest.raises(ConfigurationError, match=r"fewer weights than its config\.json has layers"):
        GradTransformerModel.from_t5(tmp_path, source_layout=make_layout(2, 3), target_layout=make_layout(2, 3))


def test_auto_classes_make_no_labels_and_take_no_attention_of_a_file(folder: Path) -> None:
    change_config(folder, num_labels=2**40, attn_implementation="kernels-community/flash-attn")

    model = AutoModel.from_pretrained(folder)

    assert model.config._attn_implementation in ("sdpa", "eager")
    assert not model.config.id2label or len(model.config.id2label) < 3
