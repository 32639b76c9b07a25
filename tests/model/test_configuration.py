from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from gradtx_hf.errors import ConfigurationError, LayoutError
from gradtx_hf.model import GradTransformerConfig
from tests.model.blocks import TINY_T5, make_layout


def make_config(**options: object) -> GradTransformerConfig:
    return GradTransformerConfig.from_layouts(make_layout(3, 4), make_layout(4, 5), t5=TINY_T5, **options)  # type: ignore[arg-type]


def edit_json(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_configuration_comes_back_equal(tmp_path: Path) -> None:
    config = make_config(source_base_model="me/small", target_base_revision="abc", start_distance_limit=0.5)

    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)

    assert isinstance(loaded, GradTransformerConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.source_layout == make_layout(3, 4)
    assert loaded.target_layout == make_layout(4, 5)
    assert (loaded.source_base_model, loaded.start_distance_limit) == ("me/small", 0.5)


def test_decoder_layers_follow_encoder_layers() -> None:
    config = GradTransformerConfig.from_layouts(make_layout(2, 3), make_layout(2, 3), t5={"num_layers": 5})

    assert config.t5 is not None
    assert config.t5["num_decoder_layers"] == 5


def test_a_layout_changed_after_saving_is_refused(tmp_path: Path) -> None:
    make_config().save_pretrained(tmp_path)
    edit_json(tmp_path, target_blocks=make_layout(4, 6).to_dict())

    with pytest.raises(LayoutError, match="target layout of fingerprint"):
        AutoConfig.from_pretrained(tmp_path)


def test_t5_fields_that_are_no_architecture_are_refused(tmp_path: Path) -> None:
    make_config().save_pretrained(tmp_path)
    edit_json(tmp_path, t5={"d_model": 16, "trust_remote_code": True})

    with pytest.raises(ConfigurationError, match="trust_remote_code"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", 0),
        ("num_layers", 2.5),
        ("num_heads", True),
        ("dropout_rate", 1.0),
        ("layer_norm_epsilon", float("nan")),
        ("feed_forward_proj", "gated-nonsense"),
        ("feed_forward_proj", "open-relu"),
    ],
)
def test_a_bad_t5_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        GradTransformerConfig.from_layouts(make_layout(2, 3), make_layout(2, 3), t5={field: value})  # type: ignore[dict-item]


@pytest.mark.parametrize("options", [{"start_distance_limit": 1.5}, {"source_base_model": 3}])
def test_a_bad_provenance_value_is_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        make_config(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"linear_rank": -1},
        {"linear_rank": 2.0},
        {"linear_rank": True},
        {"transformer_gain": 0},
        {"transformer_gain": float("inf")},
        {"decoding": "beam"},
        {"decoding": None},
        {"has_transformer": 1},
        {"block_positions": "yes"},
        {"learned_scale": None},
    ],
)
def test_a_bad_architecture_value_is_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"got {next(iter(options))}="):
        make_config(**options)


def test_a_translator_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has_transformer=False and linear_rank=0"):
        make_config(has_transformer=False)


def test_the_options_of_the_architecture_are_saved(tmp_path: Path) -> None:
    options = {
        "has_transformer": False,
        "linear_rank": 5,
        "transformer_gain": 0.5,
        "decoding": "parallel",
        "block_positions": True,
        "learned_scale": True,
    }
    make_config(**options).save_pretrained(tmp_path)

    loaded = AutoConfig.from_pretrained(tmp_path)

    assert {name: getattr(loaded, name) for name in options} == options


def test_a_configuration_without_layouts_says_how_to_make_one() -> None:
    with pytest.raises(ConfigurationError, match="from_layouts"):
        GradTransformerConfig()


def test_a_token_kind_that_is_no_plain_name_is_refused() -> None:
    layout = make_layout(2, 3, kinds={"a.b": "attn", "mlp": "mlp"})

    with pytest.raises(LayoutError, match=r"token kind 'a\.b'"):
        GradTransformerConfig.from_layouts(layout, make_layout(2, 3))
