"""What holds for every way of building a translator."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from gradtx_hf.errors import LayoutError
from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from tests.model.blocks import KINDS, TINY_T5, VARIANTS, make_layout, make_model, random_blocks


every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
MAPS = {"W_S_emb", "W_T_emb", "W_out", "encoder", "decoder"}


def batch_of(model: GradTransformerModel, batch_size: int = 3) -> tuple[Tensor, Tensor]:
    return random_blocks(model.source_layout, batch_size), random_blocks(model.target_layout, batch_size, seed=1)


def gradients(model: GradTransformerModel, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("plain", MAPS | {"start_token"}),
        ("linear", MAPS | {"start_token", "linear_path", "transformer_gain"}),
        ("linear_alone", {"linear_path"}),
        ("parallel", MAPS - {"W_T_emb"} | {"block_queries"}),
        ("positions", MAPS | {"start_token", "source_positions", "target_positions"}),
        ("scale", MAPS | {"start_token", "target_scale"}),
        (
            "all_parallel",
            MAPS - {"W_T_emb"}
            | {"block_queries", "source_positions", "linear_path", "transformer_gain", "target_scale"},
        ),
    ],
)
def test_a_translator_has_the_weights_that_it_needs_and_no_others(variant: str, expected: set[str]) -> None:
    model = make_model(options=VARIANTS[variant])

    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == expected


@every_variant
@pytest.mark.parametrize("kinds", [None, KINDS])
def test_generation_equals_teacher_forcing_on_its_own_output(
    kinds: dict[str, str] | None, options: dict[str, Any]
) -> None:
    model = make_model(kinds=kinds, options=options)
    source, _ = batch_of(model)

    generated = model.generate_updates(source)
    forced = model(source, generated)

    # of the largest value: the random scales reach far beyond 1
    largest = float(generated.abs().max())
    torch.testing.assert_close(forced.predicted_blocks, generated, atol=1e-5 * largest, rtol=1e-5)
    torch.testing.assert_close(model(source).predicted_blocks, generated, atol=1e-5 * largest, rtol=1e-5)
    torch.testing.assert_close(forced.loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    assert not generated.requires_grad


@every_variant
def test_a_block_of_the_source_reaches_every_block_of_the_target(options: dict[str, Any]) -> None:
    model = make_model(options=options)
    source, _ = batch_of(model)
    changed = source.clone()
    changed[:, 1] += model.source_mask[1]

    difference = (model.generate_updates(changed) - model.generate_updates(source)).abs().amax((0, 2))

    assert (difference > 0).all()


def test_a_prediction_is_the_linear_path_plus_the_gain_times_the_transformer() -> None:
    model = make_model(options=VARIANTS["linear"])
    assert model.linear_path is not None
    assert model.transformer_gain is not None
    source, target = batch_of(model)
    standardised = (source - model.source_mean) / model.source_std * model.source_mask
    linear = model.linear_path(standardised) * model.target_std * model.target_mask

    whole = model(source, target).predicted_blocks
    with torch.no_grad():
        model.transformer_gain.mul_(2.0)
    doubled = model(source, target).predicted_blocks
    model.linear_path = None
    alone = model(source, target).predicted_blocks

    residual = (alone - model.target_mean) * model.target_mask
    torch.testing.assert_close(whole, linear + 0.3 * residual + model.target_mean * model.target_mask)
    torch.testing.assert_close(doubled - whole, 0.3 * residual, atol=1e-5, rtol=1e-5)


def test_parallel_queries_see_one_another_in_both_directions() -> None:
    model = make_model(options=VARIANTS["parallel"])
    source, _ = batch_of(model)
    before = model.generate_updates(source)

    for changed in (0, -1):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.block_queries[changed] += 1.0
        assert ((twin.generate_updates(source) - before).abs().amax((0, 2)) > 0).all()


def test_parallel_decoding_takes_one_pass_and_no_notice_of_the_targets() -> None:
    model = make_model(options=VARIANTS["all_parallel"])
    source, target = batch_of(model)
    lengths: list[int] = []
    model.decoder.register_forward_pre_hook(
        lambda _module, _args, options: lengths.append(options["inputs_embeds"].shape[1]), with_kwargs=True
    )

    forced, other = model(source, target).predicted_blocks, model(source, -target).predicted_blocks

    assert lengths == [4, 4]
    assert torch.equal(forced, other)


def test_positions_tell_equal_blocks_apart() -> None:
    model = make_model(options=VARIANTS["positions"])
    source, target = batch_of(model)

    def predicted() -> Tensor:
        return model(source, target).predicted_blocks.detach()

    before = predicted()
    for positions in (model.source_positions, model.target_positions):
        with torch.no_grad():
            positions[-1] += 1.0
        assert not torch.allclose(predicted(), before)
        before = predicted()


@every_variant
def test_generated_blocks_give_every_weight_and_the_source_a_gradient(options: dict[str, Any]) -> None:
    model = make_model(kinds=KINDS, options=options).train()
    source, _ = batch_of(model)
    source.requires_grad_()

    found = gradients(model, model(source).predicted_blocks.square().sum())

    assert [name for name, _ in model.named_parameters() if name not in found or not found[name].any()] == []
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert source.grad is not None
    assert (source.grad.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("variant", ["plain", "linear", "positions"])
def test_gradients_through_generation_are_those_of_decoding_without_a_cache(variant: str) -> None:
    model = make_model(options=VARIANTS[variant], num_layers=3)
    source, target = batch_of(model)

    generated = gradients(model, model(source).predicted_blocks.square().sum())
    forced = torch.zeros_like(target)
    for _ in range(model.target_layout.num_blocks):  # each pass makes one more block its own
        forced = model(source, forced).predicted_blocks
    expected = gradients(model, forced.square().sum())

    assert generated.keys() == expected.keys()
    for name, gradient in generated.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-3 * float(expected[name].abs().max()), rtol=1e-3)


@pytest.mark.parametrize("options", [VARIANTS["plain"], VARIANTS["all"], VARIANTS["all_parallel"]])
@pytest.mark.parametrize("is_forced", [True, False])
def test_gradient_checkpointing_changes_nothing(is_forced: bool, options: dict[str, Any]) -> None:
    model = make_model(options=options, dropout_rate=0.0).train()
    source, target = batch_of(model)
    inputs = (source, target) if is_forced else (source,)

    plain = model(*inputs).predicted_blocks
    expected = gradients(model, plain.square().sum())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = model(*inputs).predicted_blocks
    found = gradients(model, recomputed.square().sum())

    torch.testing.assert_close(recomputed, plain, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-3 * float(expected[name].abs().max()), rtol=1e-3)


@every_variant
@pytest.mark.parametrize("kinds", [None, KINDS])
def test_saved_models_come_back_bit_equal(
    kinds: dict[str, str] | None, options: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(kinds=kinds, options=options)
    source, _ = batch_of(model)

    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert isinstance(loaded, GradTransformerModel)
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(values, expected[name]) for name, values in loaded.state_dict().items())
    buffers = dict(loaded.named_buffers())  # with those that are in no checkpoint
    assert all(torch.equal(values, buffers[name]) for name, values in model.named_buffers())
    # the same weights at other addresses may be multiplied in another order
    generated = model.generate_updates(source)
    largest = float(generated.abs().max())
    torch.testing.assert_close(loaded.generate_updates(source), generated, atol=1e-5 * largest, rtol=1e-5)


@every_variant
def test_bfloat16_keeps_its_statistics_in_float32(options: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(options=options)
    source, target = batch_of(model)
    model.save_pretrained(tmp_path)

    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    cast = copy.deepcopy(model).to(torch.bfloat16)

    kept = {name: values for name, values in model.state_dict().items() if "_mean" in name or "_std" in name}
    kept |= {name: values for name, values in model.state_dict().items() if name.endswith("log_scale")}
    for half in (loaded, cast):
        assert half.dtype == torch.bfloat16
        assert all(torch.equal(half.state_dict()[name], values) for name, values in kept.items())
        generated, expected = half.generate_updates(source), model.generate_updates(source)
        assert generated.dtype == torch.float32
        # bfloat16 has 8 bits of mantissa: a few percent of the largest value
        torch.testing.assert_close(generated, expected, atol=0.05 * float(expected.abs().max()), rtol=0.1)
        assert half(source, target).loss.isfinite()


@pytest.mark.parametrize("name", ["linear_path.up.bias", "transformer_gain", "block_queries", "target_scale.log_scale"])
def test_a_checkpoint_that_lacks_a_tensor_of_an_option_is_refused(name: str, tmp_path: Path) -> None:
    make_model(options=VARIANTS["all_parallel"]).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(LayoutError, match=f"missing weight '{name}'"):
        AutoModel.from_pretrained(tmp_path)


def test_a_configuration_saved_before_the_options_loads_as_before(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for name in VARIANTS["all"] | VARIANTS["parallel"] | {"has_transformer": True, "transformer_gain": 0.3}:
        values.pop(name)
    path.write_text(json.dumps(values))

    loaded = AutoModel.from_pretrained(tmp_path)

    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert loaded.state_dict().keys() == model.state_dict().keys()


@every_variant
@pytest.mark.parametrize("is_forced", [True, False])
def test_mixed_precision_trains(is_forced: bool, options: dict[str, Any]) -> None:
    model = make_model(options=options).train()
    source, target = batch_of(model)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model(source, target if is_forced else None).predicted_blocks
    found = gradients(model, predicted.square().sum())

    assert predicted.dtype == torch.float32
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_a_new_linear_path_predicts_the_mean() -> None:
    config = GradTransformerConfig.from_layouts(
        make_layout(3, 4), make_layout(4, 5), t5=TINY_T5, **VARIANTS["linear_alone"]
    )
    model = GradTransformerModel(config)
    mean = torch.randn(4, model.target_layout.block_dim)
    model.set_statistics(target_mean=mean)

    generated = model.generate_updates(random_blocks(model.source_layout, 2))

    torch.testing.assert_close(generated, (mean * model.target_mask).expand_as(generated))
