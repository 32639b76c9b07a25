from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, T5Config, T5ForConditionalGeneration

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.model import GradTransformerModel
from tests.model.blocks import VARIANTS, make_layout, random_blocks


def save_flan_t5(folder: Path, **options: object) -> T5ForConditionalGeneration:
    """Save a random T5 with the fields that set Flan-T5 apart."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50,
        d_model=24,
        d_kv=8,
        d_ff=40,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.05,
        relative_attention_num_buckets=16,
        decoder_start_token_id=0,
        **options,
    )
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return model


def test_from_t5_takes_over_both_stacks_and_their_fields(tmp_path: Path) -> None:
    t5 = save_flan_t5(tmp_path)

    model = GradTransformerModel.from_t5(tmp_path, source_layout=make_layout(3, 4), target_layout=make_layout(4, 5))

    assert model.config.t5 is not None
    fields = {name: model.config.t5[name] for name in ("d_model", "d_ff", "num_layers", "num_decoder_layers")}
    assert fields == {"d_model": 24, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2}
    assert (model.config.t5["feed_forward_proj"], model.config.t5["dropout_rate"]) == ("gated-gelu", 0.05)
    hidden, encoded = torch.randn(2, 4, 24), torch.randn(2, 3, 24)
    torch.testing.assert_close(
        model.decoder(inputs_embeds=hidden, encoder_hidden_states=encoded).last_hidden_state,
        t5.decoder(inputs_embeds=hidden, encoder_hidden_states=encoded).last_hidden_state,
    )
    torch.testing.assert_close(
        model.encoder(inputs_embeds=encoded).last_hidden_state, t5.encoder(inputs_embeds=encoded).last_hidden_state
    )


@pytest.mark.parametrize("options", [VARIANTS["plain"], VARIANTS["all_parallel"]])
def test_a_model_from_t5_saves_and_loads(options: dict[str, Any], tmp_path: Path) -> None:
    t5 = save_flan_t5(tmp_path / "t5")
    layout = make_layout(3, 4)
    model = GradTransformerModel.from_t5(tmp_path / "t5", source_layout=layout, target_layout=layout, **options)
    assert {name: getattr(model.config, name) for name in options} == options
    assert torch.equal(
        model.decoder.block[1].layer[2].layer_norm.weight, t5.decoder.block[1].layer[2].layer_norm.weight
    )
    source = random_blocks(layout, 2)

    model.save_pretrained(tmp_path / "translator")
    loaded = GradTransformerModel.from_pretrained(tmp_path / "translator")

    torch.testing.assert_close(loaded.generate_updates(source), model.generate_updates(source))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)

    with pytest.raises(ConfigurationError, match="'llama', expected 't5'"):
        GradTransformerModel.from_t5(tmp_path, source_layout=make_layout(2, 3), target_layout=make_layout(2, 3))


def test_a_t5_without_safetensors_weights_is_refused(tmp_path: Path) -> None:
    t5 = save_flan_t5(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(t5.state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(MissingFileError, match="safetensors"):
        GradTransformerModel.from_t5(tmp_path, source_layout=make_layout(2, 3), target_layout=make_layout(2, 3))
