"""Cross-LoRA: exact where it has to be, and between models of other shapes an ordinary adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from gradtx_hf.baselines.cross_lora import base_weights, cross_lora, matched_modules
from gradtx_hf.errors import ConfigurationError, LayoutError
from gradtx_hf.lora import Adapter, load_adapter, save_adapter
from tests.tiny import tiny_llama, with_lora


def adapter_of(model: PreTrainedModel, folder: Path, **options: object) -> Adapter:
    with_lora(model, **options).save_pretrained(str(folder))  # type: ignore[arg-type]
    return load_adapter(folder)


def updates(adapter: Adapter, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ΔW by module, in full."""
    return {
        module: scale * state[f"{module}.lora_B"].double() @ state[f"{module}.lora_A"].double()
        for module, scale in adapter.scales.items()
    }


def square_llama(seed: int = 0) -> PreTrainedModel:
    """A model whose q_proj and v_proj are both square, so that their bases span everything."""
    return tiny_llama(num_kv_heads=2, seed=seed)


def test_between_a_model_and_itself_the_update_comes_back(tmp_path: Path) -> None:
    client = adapter_of(square_llama(), tmp_path / "client", seed=3)
    init = adapter_of(square_llama(), tmp_path / "init", seed=7, alpha=8, randomise_b=False)
    weights = base_weights(square_llama(), list(client.scales))

    carried = cross_lora(client, init, source_weights=weights, target_weights=weights)

    for module, expected in updates(client, client.tensors).items():
        torch.testing.assert_close(updates(init, carried)[module], expected, atol=1e-6, rtol=1e-5)


def test_a_narrow_weight_gives_back_what_lies_in_its_own_directions(tmp_path: Path) -> None:
    model = tiny_llama(num_kv_heads=1)  # v_proj is 8 x 16: of its inputs, 8 directions
    client = adapter_of(model, tmp_path / "client", seed=3)
    init = adapter_of(tiny_llama(num_kv_heads=1), tmp_path / "init", randomise_b=False)
    weights = base_weights(tiny_llama(num_kv_heads=1), list(client.scales))

    carried = cross_lora(client, init, source_weights=weights, target_weights=weights)

    for module, update in updates(client, client.tensors).items():
        rows = torch.linalg.svd(weights[module].double(), full_matrices=False)[2]
        torch.testing.assert_close(updates(init, carried)[module], update @ rows.T @ rows, atol=1e-6, rtol=1e-5)


def test_a_rotated_model_gets_the_rotated_update(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    client = adapter_of(square_llama(), tmp_path / "client", seed=3)
    init = adapter_of(square_llama(), tmp_path / "init", randomise_b=False)
    weights = {name: weight.double() for name, weight in base_weights(square_llama(), list(client.scales)).items()}
    left, right = (torch.linalg.qr(torch.randn(16, 16, generator=generator).double()).Q for _ in range(2))
    rotated = {name: left @ weight @ right for name, weight in weights.items()}

    carried = updates(init, cross_lora(client, init, source_weights=weights, target_weights=rotated))

    # signs of singular vectors are not known: what comes back is the update up to signs in its singular directions
    for module, update in updates(client, client.tensors).items():
        u, _, vh = torch.linalg.svd(weights[module])
        back = u.T @ left.T @ carried[module] @ right.T @ vh.T
        torch.testing.assert_close(back.abs(), (u.T @ update @ vh.T).abs(), atol=1e-6, rtol=1e-4)


def test_between_shapes_it_is_an_adapter_that_peft_loads(tmp_path: Path) -> None:
    target = tiny_llama(hidden_size=24, num_layers=3)
    client = adapter_of(tiny_llama(), tmp_path / "client", rank=4)
    init = adapter_of(target, tmp_path / "init", rank=2, randomise_b=False)
    source_weights = base_weights(tiny_llama(), list(client.scales))
    target_weights = base_weights(tiny_llama(hidden_size=24, num_layers=3), list(init.scales))

    carried = cross_lora(client, init, source_weights=source_weights, target_weights=target_weights, basis_rank=5)

    save_adapter(tmp_path / "carried", config=init.config, tensors=carried)
    plain = tiny_llama(hidden_size=24, num_layers=3)
    ids = torch.arange(6)[None]
    before = plain(input_ids=ids).logits
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "carried"))
    assert {name: tensor.shape for name, tensor in carried.items()} == {n: t.shape for n, t in init.tensors.items()}
    assert not torch.allclose(loaded(input_ids=ids).logits, before)


def test_a_smaller_rank_is_the_best_approximation(tmp_path: Path) -> None:
    client = adapter_of(square_llama(), tmp_path / "client", rank=6, seed=3)
    init = adapter_of(square_llama(), tmp_path / "init", rank=2, randomise_b=False)
    weights = base_weights(square_llama(), list(client.scales))

    carried = updates(init, cross_lora(client, init, source_weights=weights, target_weights=weights))

    for module, update in updates(client, client.tensors).items():
        u, s, vh = torch.linalg.svd(update)
        torch.testing.assert_close(carried[module], (u[:, :2] * s[:2]) @ vh[:2], atol=1e-6, rtol=1e-4)


def test_layers_are_matched_by_relative_depth() -> None:
    source = [f"layers.{n}.q_proj" for n in range(3)]
    target = [f"model.h.{n}.attn.q_proj" for n in range(5)]

    partners = matched_modules(source, target)

    assert [partners[module] for module in target] == [source[n] for n in (0, 0, 1, 1, 2)]


def test_gpt2s_weights_are_turned_round() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8))
    path = "transformer.h.0.attn.c_attn"

    weight = base_weights(model, [path])[path]

    assert weight.shape == (24, 8)
    x = torch.randn(3, 8)
    torch.testing.assert_close(model.get_submodule(path)(x), x @ weight.T + model.get_submodule(path).bias)


def test_kinds_without_a_partner_and_modules_without_a_depth_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"'layers.0.k_proj' has no partner among the source's q_proj, v_proj"):
        matched_modules(["layers.0.q_proj", "layers.0.v_proj"], ["layers.0.k_proj"])
    with pytest.raises(LayoutError, match="'lm_head' lies in no numbered layer"):
        matched_modules(["lm_head"], ["lm_head"])
    with pytest.raises(LayoutError, match="is no linear layer"):
        base_weights(tiny_llama(), ["model.embed_tokens"])


def test_a_basis_of_no_rank_is_refused(tmp_path: Path) -> None:
    client = adapter_of(tiny_llama(), tmp_path / "client")

    with pytest.raises(ConfigurationError, match="got basis_rank=0"):
        cross_lora(client, client, source_weights={}, target_weights={}, basis_rank=0)
