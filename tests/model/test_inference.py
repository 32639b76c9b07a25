"""A model that is loaded to translate with computes what the plain one computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradtx_hf.errors import ConfigurationError, LayoutError
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.model.fused_linear import FusedLinear, has_float16_products
from gradtx_hf.model.inference import load_for_inference
from gradtx_hf.model.inference_stack import EXACT_LAYERS
from gradtx_hf.model.weights import read_config
from gradtx_hf.updates.reading import ForeignFolder
from tests.model.blocks import KINDS, VARIANTS, make_model, random_blocks


CPU = torch.device("cpu")
WITH_TRANSFORMER = {name: options for name, options in VARIANTS.items() if options.get("has_transformer", True)}
every_variant = pytest.mark.parametrize("options", WITH_TRANSFORMER.values(), ids=WITH_TRANSFORMER.keys())


def load(folder: Path, dtype: torch.dtype = torch.float32) -> GradTransformerModel:
    files = ForeignFolder(folder, "translator 'me/tiny'", LayoutError)
    return load_for_inference(files, read_config(files), name="me/tiny", dtype=dtype, device=CPU)


def saved(
    folder: Path,
    *,
    kinds: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    num_layers: int = 2,
    feed_forward: str = "gated-gelu",
) -> GradTransformerModel:
    model = make_model(kinds=kinds, options=options, num_layers=num_layers, feed_forward_proj=feed_forward)
    model.save_pretrained(folder)
    return model


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@every_variant
@pytest.mark.parametrize("kinds", [None, KINDS])
def test_float32_generates_what_the_plain_model_generates(
    kinds: dict[str, str] | None, options: dict[str, Any], tmp_path: Path
) -> None:
    plain = saved(tmp_path, kinds=kinds, options=options, num_layers=EXACT_LAYERS + 1)
    source = random_blocks(plain.source_layout, 3)

    generated = load(tmp_path).generate_updates(source)

    torch.testing.assert_close(generated, plain.generate_updates(source), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu", "gated-silu"])
def test_every_feed_forward_is_that_of_the_plain_model(feed_forward: str, tmp_path: Path) -> None:
    plain = saved(tmp_path, feed_forward=feed_forward)
    source, target = random_blocks(plain.source_layout, 2), random_blocks(plain.target_layout, 2, seed=1)

    loaded = load(tmp_path)

    torch.testing.assert_close(
        loaded(source, target).predicted_blocks, plain(source, target).predicted_blocks, rtol=1e-4, atol=1e-5
    )


@every_variant
def test_generation_equals_teacher_forcing_on_its_own_output(options: dict[str, Any], tmp_path: Path) -> None:
    plain = saved(tmp_path, options=options)
    source = random_blocks(plain.source_layout, 3)
    loaded = load(tmp_path)

    generated = loaded.generate_updates(source)

    with torch.no_grad():
        torch.testing.assert_close(loaded(source, generated).predicted_blocks, generated, rtol=1e-4, atol=1e-5)


def test_each_update_of_a_batch_is_what_it_is_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    loaded = load(tmp_path)
    source = random_blocks(loaded.source_layout, 5)

    alone = torch.cat([loaded.generate_updates(one[None]) for one in source])

    torch.testing.assert_close(loaded.generate_updates(source), alone, rtol=1e-4, atol=1e-5)


@every_variant
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)])
def test_half_precision_is_near_float32(
    options: dict[str, Any], dtype: torch.dtype, bound: float, tmp_path: Path
) -> None:
    plain = saved(tmp_path, options=options, num_layers=EXACT_LAYERS + 1)
    source = random_blocks(plain.source_layout, 3)

    generated = load(tmp_path, dtype).generate_updates(source)

    assert generated.dtype == torch.float32
    assert 0 < relative(generated, plain.generate_updates(source)) < bound


def test_in_float16_all_products_are_float16(tmp_path: Path) -> None:
    saved(tmp_path / "plain", kinds=KINDS)

    load(tmp_path / "plain", torch.float16).save_pretrained(tmp_path / "again")

    again = load_file(tmp_path / "again" / "model.safetensors")
    products = {name for name in again if name.startswith(("encoder.block", "decoder.block", "W_"))}
    products = {name for name in products if not name.endswith(("layer_norm.weight", "attention_bias.weight", "bias"))}
    assert {name for name, tensor in again.items() if tensor.dtype == torch.float16} == products


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["decoder.block.1.layer.2.DenseReluDense.wo.weight"][0, 0] = 1e5
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(LayoutError, match=r"wo.weight' are beyond the largest float16. Use dtype float32"):
        load(tmp_path, torch.float16)


def test_float16_without_products_of_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    monkeypatch.setattr("gradtx_hf.model.inference.has_float16_products", lambda device: False)

    with pytest.raises(ConfigurationError, match=r"got dtype float16 on cpu, .* Use float32 or bfloat16"):
        load(tmp_path, torch.float16)


def test_no_device_but_a_cpu_has_products_of_float16() -> None:
    assert not has_float16_products(torch.device("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_again_it_has_every_weight_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    saved(tmp_path / "plain", kinds=KINDS, num_layers=EXACT_LAYERS + 1)

    load(tmp_path / "plain", dtype).save_pretrained(tmp_path / "again")

    plain, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "again"))
    assert plain.keys() == again.keys()
    for name, tensor in again.items():
        assert torch.equal(tensor, plain[name].to(tensor.dtype)), name
    rounded = {name for name, tensor in again.items() if tensor.dtype == torch.bfloat16}
    last = f"decoder.block.{EXACT_LAYERS}"
    expected = {name for name in again if name.startswith((last, "W_T_emb", "W_out")) and name.endswith("weight")}
    once = ("layer_norm", "EncDecAttention.k", "EncDecAttention.v")
    expected = {name for name in expected if not any(part in name for part in once)}
    assert rounded == (expected if dtype == torch.bfloat16 else set())  # float16: the test above
    source = random_blocks(load(tmp_path / "again").source_layout, 2)
    both = [load(tmp_path / name, dtype).generate_updates(source) for name in ("plain", "again")]
    assert torch.equal(*both)


def test_it_cannot_be_moved_or_cast(tmp_path: Path) -> None:
    saved(tmp_path)
    loaded = load(tmp_path)

    with pytest.raises(ConfigurationError, match="loaded to translate: its weights stay as they are"):
        loaded.bfloat16()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["decoder.block.1.layer.1.EncDecAttention.v.weight"][0, 0] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(LayoutError, match=r"EncDecAttention.v.weight' of translator 'me/tiny' holds NaN"):
        load(tmp_path)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(LayoutError, match="missing weight"):
        load(tmp_path)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01), (torch.float16, 1e-3)])
def test_fused_maps_are_the_maps_side_by_side(dtype: torch.dtype, error: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(size, 40, generator=generator) for name, size in (("a", 7), ("b", 33))}
    bias, inputs = torch.randn(40, generator=generator), torch.randn(2, 3, 40, generator=generator)

    fused = FusedLinear(weights, bias=bias, dtype=dtype, device=CPU)

    expected = inputs @ torch.cat(list(weights.values())).T + bias
    assert relative(fused(inputs), expected) < error
    parts = fused.tensors()
    assert torch.equal(parts.pop("bias"), bias)
    assert parts.keys() == weights.keys()
    assert all(torch.equal(parts[name], weights[name].to(dtype)) for name in weights)
