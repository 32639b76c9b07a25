"""A target adapted in its MLP as well, with a token kind for it: curated, trained, translated, loaded by stock PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gradtx_hf.curation import CurationArguments, curate
from gradtx_hf.lora import load_adapter, save_adapter
from gradtx_hf.training import TranslatorArguments, train
from gradtx_hf.translation import PeftTranslator
from gradtx_hf.updates import TOKEN_KINDS, decode_update, encode_update
from gradtx_hf.updates.store import UpdateStore
from tests.cli.story import TRAINING
from tests.curation.world import RULES, save_model, write_lines


RECIPE: dict[str, Any] = {"num_steps": 3, "batch_size": 2, "learning_rate": 5e-3, "max_length": 32}
MLP = ["gate_proj", "up_proj", "down_proj"]
KINDS = {kind: TOKEN_KINDS[kind] for kind in ("attention", "mlp")}
NUM_LAYERS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> UpdateStore:
    folder = tmp_path_factory.mktemp("kinds")
    return curate(
        CurationArguments(
            source_model=str(save_model(folder / "source", hidden_size=8, num_layers=2, seed=0)),
            target_model=str(save_model(folder / "target", hidden_size=16, num_layers=NUM_LAYERS, seed=1)),
            output_dir=str(folder / "store"),
            corpora=[{"path": str(write_lines(folder / f"{rule.name}.jsonl", rule, 16))} for rule in RULES],
            num_shadow_sets=4,
            samples_per_set=8,
            num_target_runs=2,
            num_snapshots=2,
            source_recipe=RECIPE,
            target_recipe=RECIPE,
            target_target_modules=["q_proj", "v_proj", *MLP],
            token_kinds=KINDS,
        )
    )


@pytest.fixture(scope="module", params=["parallel", "autoregressive"])
def translator(store: UpdateStore, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translator") / request.param
    options: dict[str, Any] = TRAINING | {
        "objective": "functional",
        "decoding": request.param,
        "linear_rank": 2,
        "num_target_runs": 2,
        "disable_tqdm": True,
    }
    train(TranslatorArguments(store=str(store.folder), output_dir=str(folder), **options))
    return folder


@pytest.fixture
def client(store: UpdateStore, tmp_path: Path) -> Path:
    """Write an adapter that drifted a little from the source's start."""
    start = load_adapter(store.folder / "source_init")
    torch.manual_seed(3)
    moved = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in start.tensors.items()}
    save_adapter(tmp_path / "client", config=start.config, tensors=moved)
    return tmp_path / "client"


def test_each_layer_of_the_target_is_two_tokens_of_their_own_sizes(store: UpdateStore) -> None:
    layout = store.target_layout

    assert store.source_layout.kinds.keys() == {"attention"}
    assert [block.kind for block in layout.blocks] == ["attention", "mlp"] * NUM_LAYERS
    assert layout.kinds == {"attention": 2 * (16 + 16 + 16 + 8), "mlp": 3 * 2 * (16 + 32)}


def test_adapters_go_into_tokens_of_both_kinds_and_back(store: UpdateStore) -> None:
    start = load_adapter(store.folder / "target_init").tensors

    decoded = decode_update(encode_update(start, store.target_layout), store.target_layout)

    assert all(torch.equal(decoded[name], tensor) for name, tensor in start.items())


def test_the_translator_has_maps_of_its_own_for_each_kind(translator: Path) -> None:
    model = PeftTranslator.from_pretrained(translator).parts[""]

    sizes = {kind: model.get_parameter(f"W_out.{kind}.weight").shape[0] for kind in KINDS}
    assert sizes == model.target_layout.kinds


def test_stock_peft_loads_the_translated_adapter_of_attention_and_mlp(
    translator: Path, store: UpdateStore, client: Path, tmp_path: Path
) -> None:
    loaded = PeftTranslator.from_pretrained(translator)
    start = load_adapter(store.folder / "target_init")

    loaded.translate(str(client)).save_pretrained(tmp_path / "out")

    translated = load_adapter(tmp_path / "out").tensors
    assert all(not torch.equal(translated[name], tensor) for name, tensor in start.tensors.items())
    base = AutoModelForCausalLM.from_pretrained(start.base_model).eval()
    ids = torch.arange(3, 17).reshape(2, 7)
    with torch.no_grad():
        for module in start.scales:
            a, b = (translated[f"{module}.lora_{letter}"] for letter in "AB")
            base.get_parameter(f"{module}.weight").add_(start.scales[module] * (b @ a))
        expected = base(ids).logits
        fresh = AutoModelForCausalLM.from_pretrained(start.base_model)
        untouched = fresh(ids).logits
        adapted = PeftModel.from_pretrained(fresh, tmp_path / "out").eval()(ids).logits
    assert not torch.allclose(adapted, untouched, atol=1e-4)
    torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-4)


def test_a_saved_translator_generates_the_same_bits(translator: Path, client: Path, tmp_path: Path) -> None:
    loaded = PeftTranslator.from_pretrained(translator)
    loaded.save_pretrained(tmp_path / "again")

    states = [p.translate(str(client)).state_dict for p in (loaded, PeftTranslator.from_pretrained(tmp_path / "again"))]

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
