"""Every supported architecture: stock PEFT writes, we read, change and write, stock PEFT loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel

from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from gradtx_hf.updates import BlockLayout, UpdateVector, decode_update, encode_update
from tests.lora.architectures import ARCHITECTURES, Architecture, logits_of
from tests.tiny import with_lora


ALL = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)


def save_with_peft(folder: Path, architecture: Architecture, **lora: object) -> torch.Tensor:
    """Write an adapter with stock PEFT and return the adapted model's logits."""
    options = {"target_modules": architecture.projections, "fan_in_fan_out": architecture.has_conv1d, **lora}
    model = with_lora(architecture.make(), **options)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    return logits_of(model)


def add_by_hand(architecture: Architecture, adapter: Adapter, changed: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return the base model in float64 with s·(B'A') added to its weights."""
    model = architecture.make().double()
    for module in adapter.layout.modules:
        delta = changed[f"{module}.lora_B"].double() @ changed[f"{module}.lora_A"].double() * adapter.scales[module]
        weight = model.get_submodule(module).weight
        weight.data += delta.T if architecture.has_conv1d else delta
    return model


@ALL
def test_stock_adapter_is_read_with_every_tensor(architecture: Architecture, tmp_path: Path) -> None:
    model = with_lora(architecture.make(), target_modules=architecture.projections)
    model.save_pretrained(tmp_path)

    adapter = load_adapter(tmp_path)

    expected = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert len(adapter.tensors) == len(expected)
    for name, tensor in adapter.tensors.items():
        assert torch.equal(tensor, expected[f"base_model.model.{name}.default.weight"])
    assert adapter.layout.num_blocks == 2


@ALL
def test_encode_and_decode_are_bit_equal(architecture: Architecture, tmp_path: Path) -> None:
    save_with_peft(tmp_path, architecture)
    adapter = load_adapter(tmp_path)

    decoded = decode_update(encode_update(adapter.tensors, adapter.layout), adapter.layout)

    assert decoded.keys() == adapter.tensors.keys()
    assert all(torch.equal(decoded[name], tensor) for name, tensor in adapter.tensors.items())


@ALL
def test_saved_adapter_gives_stock_peft_the_same_logits(architecture: Architecture, tmp_path: Path) -> None:
    logits = save_with_peft(tmp_path / "stock", architecture)
    adapter = load_adapter(tmp_path / "stock")

    save_adapter(tmp_path / "ours", config=adapter.config, tensors=adapter.tensors)

    loaded = PeftModel.from_pretrained(architecture.make(), tmp_path / "ours").eval()
    assert torch.equal(logits_of(loaded), logits)


@ALL
@pytest.mark.parametrize("use_rslora", [False, True], ids=["alpha/r", "rslora"])
def test_decoded_update_changes_the_logits_as_adding_it_by_hand(
    architecture: Architecture, tmp_path: Path, *, use_rslora: bool
) -> None:
    before = save_with_peft(tmp_path / "stock", architecture, use_rslora=use_rslora, alpha_pattern={"fc1": 4})
    adapter = load_adapter(tmp_path / "stock")
    tokens = 0.1 * torch.randn(adapter.layout.num_blocks, adapter.layout.block_dim) * adapter.layout.mask()

    changed = UpdateVector(tokens, adapter.layout).added_to(adapter.tensors)
    save_adapter(tmp_path / "ours", config=adapter.config, tensors=changed)

    loaded = PeftModel.from_pretrained(architecture.make(), tmp_path / "ours").eval().double()
    after = logits_of(loaded)
    assert not torch.allclose(after, before.double(), atol=1e-3)
    torch.testing.assert_close(after, logits_of(add_by_hand(architecture, adapter, changed)), atol=1e-10, rtol=1e-8)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_subset_of_projections_is_read(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    architecture = ARCHITECTURES[data.draw(st.sampled_from(sorted(ARCHITECTURES)))]
    chosen = data.draw(st.sets(st.sampled_from(architecture.projections), min_size=1))
    folder = tmp_path_factory.mktemp("adapter")
    save_with_peft(folder, architecture, target_modules=tuple(chosen), rank=data.draw(st.integers(1, 5)))

    layout = load_adapter(folder).layout

    assert set(layout.projections) == {name.rpartition(".")[2] for name in chosen}
    assert len(layout.modules) == 2 * len(chosen)


def test_chosen_layers_give_blocks_for_these_layers_only(tmp_path: Path) -> None:
    save_with_peft(tmp_path, ARCHITECTURES["llama"], layers_to_transform=[1])

    adapter = load_adapter(tmp_path)

    assert [block.name for block in adapter.layout.blocks] == ["model.layers.1"]
    loaded = PeftModel.from_pretrained(ARCHITECTURES["llama"].make(), tmp_path)
    assert set(load_adapter(tmp_path).config.layers_to_transform or []) == {1}
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == len(adapter.layout.modules)


def test_rank_pattern_gives_blocks_of_different_size(tmp_path: Path) -> None:
    logits = save_with_peft(
        tmp_path / "stock", ARCHITECTURES["qwen2"], rank_pattern={r"layers\.1\.self_attn\.q_proj": 5}
    )
    adapter = load_adapter(tmp_path / "stock")
    first, second = adapter.layout.blocks

    save_adapter(tmp_path / "ours", config=adapter.config, tensors=adapter.tensors)

    assert second.size == first.size + 3 * (16 + 16)
    assert not adapter.layout.mask()[0, first.size :].any()
    loaded = PeftModel.from_pretrained(ARCHITECTURES["qwen2"].make(), tmp_path / "ours").eval()
    assert torch.equal(logits_of(loaded), logits)


def test_more_than_ten_layers_stand_in_number_order(tmp_path: Path) -> None:
    with_lora(ARCHITECTURES["llama"].make(num_layers=12)).save_pretrained(tmp_path)

    names = [block.name for block in load_adapter(tmp_path).layout.blocks]

    assert names == [f"model.layers.{n}" for n in range(12)]


@ALL
def test_full_weight_updates_go_through_the_same_interface(architecture: Architecture) -> None:
    before = {n: p.data for n, p in architecture.make().named_parameters() if any(c.isdigit() for c in n)}
    after = {name: weight + 0.01 * torch.randn_like(weight) for name, weight in before.items()}
    layout = BlockLayout.from_shapes({name: weight.shape for name, weight in before.items()})

    update = UpdateVector.between(after, before, layout)

    restored = update.added_to(before)
    assert layout.num_blocks == 2
    for name, weight in after.items():
        torch.testing.assert_close(restored[name], weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_embedding_and_head_adapters_get_their_own_token_kind(target: str, tmp_path: Path) -> None:
    logits = save_with_peft(tmp_path / "stock", ARCHITECTURES["llama"], target_modules=("q_proj", "down_proj", target))

    adapter = load_adapter(tmp_path / "stock")
    save_adapter(tmp_path / "ours", config=adapter.config, tensors=adapter.tensors)

    assert sorted(adapter.layout.kinds) == ["attention", "embedding", "mlp"]
    loaded = PeftModel.from_pretrained(ARCHITECTURES["llama"].make(), tmp_path / "ours").eval()
    assert torch.equal(logits_of(loaded), logits)
