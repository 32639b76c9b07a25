from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from gradtx_hf.errors import LayoutError
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from tests.model.blocks import KINDS, TINY_T5, make_layout, make_model, random_blocks


def batch_of(model: GradTransformerModel, batch_size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return random_blocks(model.source_layout, batch_size), random_blocks(model.target_layout, batch_size, seed=1)


def standardise(model: GradTransformerModel, side: str, blocks: torch.Tensor) -> torch.Tensor:
    mask = getattr(model, f"{side}_layout").mask()
    return (blocks - getattr(model, f"{side}_mean")) / getattr(model, f"{side}_std") * mask


def stock_stack(stack: nn.Module, *, is_decoder: bool) -> T5Stack:
    """Build a stock T5Stack, token embedding and all, with the weights of one of ours."""
    config = T5Config(**TINY_T5, feed_forward_proj="gated-gelu", vocab_size=7, is_decoder=is_decoder, use_cache=False)
    twin = T5Stack(config).eval()
    twin.load_state_dict(stack.state_dict(), strict=False)
    return twin


@pytest.mark.parametrize("kinds", [None, KINDS])
def test_forward_equals_stock_t5_stacks_on_embedded_blocks(kinds: dict[str, str] | None) -> None:
    model = make_model(kinds=kinds)
    source, target = batch_of(model)

    predicted = model(source, target).predicted_blocks

    def embed(maps: nn.ModuleDict, layout_side: str, blocks: torch.Tensor) -> torch.Tensor:
        layout, columns = getattr(model, f"{layout_side}_layout"), []
        for n, block in enumerate(layout.blocks):
            linear = maps[block.kind]
            columns.append(nn.functional.linear(blocks[:, n, : linear.in_features], linear.weight, linear.bias))
        return torch.stack(columns, dim=1)

    h_source = embed(model.W_S_emb, "source", standardise(model, "source", source))
    h_target = embed(model.W_T_emb, "target", standardise(model, "target", target))
    start = model.start_token.expand(len(source), 1, -1)
    encoded = stock_stack(model.encoder, is_decoder=False)(inputs_embeds=h_source).last_hidden_state
    hidden = stock_stack(model.decoder, is_decoder=True)(
        inputs_embeds=torch.cat([start, h_target[:, :-1]], dim=1), encoder_hidden_states=encoded
    ).last_hidden_state
    expected = torch.zeros_like(target)
    for n, block in enumerate(model.target_layout.blocks):
        out = model.W_out[block.kind](hidden[:, n])[:, : block.size]
        expected[:, n, : block.size] = out * model.target_std[n, : block.size] + model.target_mean[n, : block.size]
    torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=1e-5)


def test_generation_encodes_once_and_decodes_one_block_at_a_time() -> None:
    model = make_model()
    source, _ = batch_of(model)
    lengths: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, seen in lengths.items():
        getattr(model, name).register_forward_pre_hook(
            lambda _module, _args, options, seen=seen: seen.append(options["inputs_embeds"].shape[1]),
            with_kwargs=True,
        )

    model.generate_updates(source)

    assert lengths == {"encoder": [3], "decoder": [1, 1, 1, 1]}


def test_each_block_depends_on_the_source_and_on_earlier_target_blocks_only() -> None:
    model = make_model()
    source, target = batch_of(model)
    changed = target.clone()
    changed[:, 2] += model.target_mask[2]

    difference = (model(source, changed).predicted_blocks - model(source, target).predicted_blocks).abs().amax((0, 2))

    assert difference[:3].max() == 0
    assert difference[3] > 0


@pytest.mark.parametrize("kinds", [None, KINDS])
def test_loss_is_equation_10_in_standardised_units(kinds: dict[str, str] | None) -> None:
    model = make_model(kinds=kinds)
    source, target = batch_of(model)
    source += ~model.source_layout.mask() * 9.0  # what stands in the padding must not matter
    dirty = target + ~model.target_layout.mask() * 9.0

    output = model(source, dirty)

    error = standardise(model, "target", output.predicted_blocks) - standardise(model, "target", target)
    norms = torch.stack(
        [error[:, n, : block.size].square().sum(1) for n, block in enumerate(model.target_layout.blocks)], dim=1
    )
    sizes = torch.tensor([block.size for block in model.target_layout.blocks])
    torch.testing.assert_close(output.loss, norms.sum() / (len(source) * len(sizes)))
    torch.testing.assert_close(output.block_errors, norms.mean(0) / sizes)
    torch.testing.assert_close(model.squared_errors(output.predicted_blocks, target), norms)
    torch.testing.assert_close(model(source * model.source_mask, target).loss, output.loss)


def test_padding_of_generated_blocks_is_exactly_zero() -> None:
    model = make_model(kinds=KINDS)
    source, target = batch_of(model)
    padding = ~model.target_layout.mask()

    assert model.generate_updates(source)[:, padding].abs().max() == 0
    assert model(source, target).predicted_blocks[:, padding].abs().max() == 0


def test_the_start_token_and_every_weight_get_a_gradient() -> None:
    model = make_model(kinds=KINDS).train()
    source, target = batch_of(model)

    model(source, target).loss.backward()

    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_a_config_saved_in_bfloat16_builds_float32_statistics() -> None:
    config = make_model().config
    config.dtype = torch.bfloat16

    model = AutoModel.from_config(config)

    assert model.dtype == torch.bfloat16
    assert model.source_mean.dtype == torch.float32


@pytest.mark.parametrize("name", ["start_token", "target_std", "W_out.block.weight"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(name: str, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(LayoutError, match=f"missing weight '{name}'"):
        AutoModel.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_layout_or_depth_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)

    other = GradTransformerConfig.from_layouts(make_layout(3, 6), model.target_layout, t5=TINY_T5)
    other.save_pretrained(tmp_path)
    with pytest.raises(LayoutError, match="mismatched weight"):
        AutoModel.from_pretrained(tmp_path)

    shallow = GradTransformerConfig.from_layouts(
        model.source_layout, model.target_layout, t5={**TINY_T5, "num_layers": 1}
    )
    shallow.save_pretrained(tmp_path)
    with pytest.raises(LayoutError, match="unexpected weight"):
        AutoModel.from_pretrained(tmp_path)


def test_a_checkpoint_with_unusable_statistics_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.target_std[0, 0] = 0
    model.save_pretrained(tmp_path)

    with pytest.raises(LayoutError, match="target_std"):
        AutoModel.from_pretrained(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = make_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(OSError, match="safetensors"):
        AutoModel.from_pretrained(tmp_path)


def test_blocks_of_a_wrong_shape_are_refused() -> None:
    model = make_model()
    source, target = batch_of(model)

    with pytest.raises(LayoutError, match=r"source blocks of shape \[3, 3, 17\], expected \[batch, 3, 18\]"):
        model(source[..., :-1], target)
    with pytest.raises(LayoutError, match="target blocks"):
        model(source, target[:, :-1])
    with pytest.raises(LayoutError, match="source blocks"):
        model.generate_updates(source[0])
