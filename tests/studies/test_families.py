"""Models of other architectures and tokenizers, and the study of pairs of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from gradtx_hf.finetuning import load_language_model
from gradtx_hf.lora import load_adapter
from gradtx_hf.playground.world import REARRANGEMENTS, Rule
from gradtx_hf.studies.cells import SINCE_ADDED, Cell, World
from gradtx_hf.studies.families import FAMILIES
from gradtx_hf.studies.models import OF_ITS_OWN_KIND, PRETRAINED, Pretraining, pretrain_model
from gradtx_hf.studies.pretrain_playground import ARCHITECTURES, LineSampler, build_model, build_tokenizer
from gradtx_hf.studies.run_study import run_study
from gradtx_hf.studies.tiny import tiny_study
from gradtx_hf.studies.world import Place, curation_arguments, key_of


LINE = "??abcdef=ghijkl"


def test_a_tokenizer_of_pairs_splits_the_same_line_otherwise() -> None:
    letters, pairs = build_tokenizer(), build_tokenizer(2)

    assert letters.tokenize(LINE) == list(LINE)
    assert pairs.tokenize(LINE) == ["?", "?", "ab", "cd", "ef", "=", "gh", "ij", "kl"]
    assert pairs.decode(pairs(LINE)["input_ids"]) == LINE
    assert (len(letters), len(pairs)) == (41, 173)


def test_sampled_lines_of_pairs_obey_the_rules_of_the_world() -> None:
    tokenizer = build_tokenizer(2)
    sampler = LineSampler(tokenizer, generator=torch.Generator().manual_seed(0), letters_per_token=2)
    by_tags = {rule.tags: rule for rule in (Rule(r, s) for r in REARRANGEMENTS for s in range(12))}

    ids = sampler.batch(100, hidden_share=0.0, hide_together=True)

    assert ids.shape == (100, 10)
    assert sampler.num_outputs == 4
    for line in tokenizer.batch_decode(ids[:, :-1]):
        assert by_tags[line[:2]].apply(line[2:8]) == line[9:]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recipe_gives_a_model_of_its_architecture(architecture: str) -> None:
    name = {"llama": "target_pairs", "qwen2": "target_qwen2", "gpt2": "source_gpt2"}[architecture]
    recipe = PRETRAINED[name]

    model = build_model(recipe, build_tokenizer(recipe.letters_per_token))

    assert model.config.model_type == recipe.architecture == architecture
    if architecture == "gpt2":
        attention = model.get_submodule("transformer.h.0.attn.c_attn")
        assert isinstance(attention, Conv1D)
        assert attention.weight.shape == (40, 120)
        assert model.get_submodule("transformer.h.0.mlp.c_fc").weight.shape == (40, 112)
        assert (model.config.attn_pdrop, model.config.embd_pdrop, model.config.resid_pdrop) == (0, 0, 0)
    else:
        attention = model.get_submodule("model.layers.0.self_attn")
        assert (attention.q_proj.bias is not None) == (architecture == "qwen2")
        assert attention.v_proj.weight.shape == ((48 if architecture == "qwen2" else 96), 96)


def test_a_token_of_several_letters_begins_as_the_sum_of_its_letters() -> None:
    tokenizer = build_tokenizer(2)
    model = build_model(PRETRAINED["source_pairs"], tokenizer)
    vocabulary = tokenizer.get_vocab()

    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        vector = {piece: module.weight[vocabulary[piece]] for piece in ("ab", "aa", "cb", "ca", "ba")}
        torch.testing.assert_close(vector["ab"] - vector["aa"], vector["cb"] - vector["ca"])
        assert not torch.allclose(vector["ab"], vector["ba"])


def test_a_pretrained_model_of_pairs_is_saved_with_its_tokenizer(tmp_path: Path) -> None:
    pretrain_model(Pretraining("source_pairs_tiny", tmp_path / "pairs"))

    model, tokenizer = load_language_model(str(tmp_path / "pairs"))

    assert len(tokenizer) == model.config.vocab_size == 173
    assert tokenizer.tokenize("abcd") == ["ab", "cd"]


def test_what_was_added_to_a_world_leaves_the_keys_of_others_as_they_were() -> None:
    assert not set(SINCE_ADDED) & World().to_dict().keys()
    changed = World(target_modules=("v_proj",), token_kinds={"attention": "attn"})
    assert {name for name in SINCE_ADDED if name in changed.to_dict()} == {"target_modules", "token_kinds"}
    assert key_of(changed.to_dict()) != key_of(World().to_dict())
    assert World().pair == "source → target"
    assert changed.pair == "source → target (v_proj)"


def test_adapted_modules_and_kinds_reach_the_curation(tmp_path: Path) -> None:
    gpt2, mlp = (FAMILIES.world_of(FAMILIES.cell(name)) for name in ("gpt2_to_llama", "mlp_in_its_own_token"))

    arguments = [curation_arguments(world, Place(tmp_path, 0), num_workers=1) for world in (gpt2, mlp)]

    assert arguments[0].source_target_modules == ["c_attn"]
    assert arguments[0].token_kinds is None
    assert arguments[1].target_target_modules == ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
    assert list(arguments[1].token_kinds or {}) == ["attention", "mlp"]


def test_cells_that_differ_in_token_kinds_alone_share_clients_and_controls() -> None:
    one, two = (FAMILIES.cell(name) for name in ("mlp_in_one_token", "mlp_in_its_own_token"))

    assert FAMILIES.control_world_of(one) == FAMILIES.control_world_of(two)
    assert FAMILIES.world_of(one) != FAMILIES.world_of(two)


def test_a_dry_run_keeps_architectures_and_tokenizers() -> None:
    tiny = tiny_study(FAMILIES)

    named = {getattr(tiny.world_of(cell), side) for cell in tiny.cells for side in ("source", "target")}
    assert named == {f"{name}_tiny" for name in ("source", "target", *OF_ITS_OWN_KIND)}


@pytest.mark.slow
def test_a_pair_of_two_architectures_and_two_tokenizers_goes_its_whole_way(tmp_path: Path) -> None:
    tiny = tiny_study(FAMILIES)
    world = {"source": "source_gpt2_tiny", "source_modules": ("c_attn",), "target": "target_pairs_tiny"}
    clients = replace(tiny.clients, num_seen=1, num_unseen=1, num_parts=1)
    study = replace(tiny, cells=(Cell("gpt2_to_pairs", "GPT-2 to pairs", world=world),), clients=clients)

    report = run_study(study, tmp_path / "out")

    assert not report.failures
    methods = report.cells[0].summary["all"].methods
    controls = {"source_client", "public_finetune", "nearest_shadow", "ridge", "shuffled_input", "ceiling"}
    assert controls <= set(methods)
    written = next((tmp_path / "out" / "seed-0" / "stores").iterdir())
    layouts = [load_adapter(written / f"{side}_init").layout for side in ("source", "target")]
    assert [layout.projections for layout in layouts] == [("c_attn",), ("q_proj", "v_proj")]
