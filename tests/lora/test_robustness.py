"""Whatever a broken adapter folder holds, what is raised is ours and is one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtx_hf.errors import GradTxError
from gradtx_hf.lora import load_adapter
from tests.tiny import save_tiny_adapter


# fmt: off
FIELDS = [
    "alpha_pattern", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "init_r", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_dropout", "modules_to_save", "new_field", "peft_type", "r", "rank_pattern", "revision",
    "target_modules", "target_parameters", "task_type", "use_dora", "use_rslora",
]
# fmt: on
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 2, 16, -1, 2**70, 0.5]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["q_proj", "LORA", "ADALORA", "all", "(", "*", "pissa", "eva", "loftq", "CAUSAL_LM", "all-linear"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("q_proj"), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def good_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}


def refusal_of(folder: Path) -> str:
    """Return what the adapter is refused with, or nothing if it is read; any other error fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            adapter = load_adapter(folder)
            assert adapter.layout.num_elements > 0
            assert all(abs(scale) > 0 for scale in adapter.scales.values())
    except GradTxError as error:
        return str(error)
    return ""


@settings(max_examples=400, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=3))
def test_any_configuration_is_read_or_refused(
    folder: Path, good_files: dict[str, bytes], changes: dict[str, object]
) -> None:
    (folder / "adapter_model.safetensors").write_bytes(good_files["adapter_model.safetensors"])
    config = json.loads(good_files["adapter_config.json"]) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))

    assert "\n" not in refusal_of(folder)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_damage_of_the_weights_is_read_or_refused(
    folder: Path, good_files: dict[str, bytes], data: st.DataObject
) -> None:
    (folder / "adapter_config.json").write_bytes(good_files["adapter_config.json"])
    content = bytearray(good_files["adapter_model.safetensors"])
    header_end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(header_end, len(content)) - 1))
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789[]{}":,')))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (folder / "adapter_model.safetensors").write_bytes(content[:end])

    assert "\n" not in refusal_of(folder)
