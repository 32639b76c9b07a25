from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.lora import load_adapter
from gradtx_hf.model.inference_stack import InferenceStack
from gradtx_hf.translation import AggregationSettings, PeftTranslator, loading
from gradtx_hf.updates import UpdateVector
from tests.tiny import save_tiny_adapter
from tests.translation.pair import Pair, aligned_update, make_model, save_changed


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def relative_difference(got: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Return the difference of two states, relative to what the expected one adds to the start."""
    difference = sum(float((got[name] - expected[name]).square().sum()) for name in start)
    return (difference / sum(float((expected[name] - start[name]).square().sum()) for name in start)) ** 0.5


def test_the_folder_holds_what_was_saved_and_two_peft_adapters(pair: Pair, tmp_path: Path) -> None:
    translator = PeftTranslator.from_pretrained(pair.translator)

    translator.save_pretrained(tmp_path / "again")

    assert files(tmp_path / "again") == files(pair.translator)
    assert sorted(files(pair.translator)) == [
        "config.json",
        "model.safetensors",
        "source_init/adapter_config.json",
        "source_init/adapter_model.safetensors",
        "target_init/adapter_config.json",
        "target_init/adapter_model.safetensors",
    ]
    for side, base in (("source_init", pair.source), ("target_init", pair.target)):
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), pair.translator / side)


def test_a_translator_may_lie_in_a_subfolder(pair: Pair, clients: list[Path]) -> None:
    inner = PeftTranslator.from_pretrained(pair.translator.parent, subfolder=pair.translator.name)
    whole = PeftTranslator.from_pretrained(pair.translator)

    tensors = [translator.translate(clients[0]).tensors for translator in (inner, whole)]

    assert all(torch.equal(tensors[0][name], tensor) for name, tensor in tensors[1].items())


def test_a_translation_is_target_init_and_the_generated_update(
    pair: Pair, translator: PeftTranslator, clients: list[Path]
) -> None:
    update = aligned_update(load_adapter(clients[0]), translator.source_init)
    vector = UpdateVector.between(
        {name: translator.source_init.tensors[name] + change for name, change in update.items()},
        translator.source_init.tensors,
        translator.source_init.layout,
    )
    generated = translator.parts[""].generate_updates(vector.tokens[None])[0]
    expected = UpdateVector(generated, translator.target_init.layout).added_to(translator.target_init.tensors)

    translated = translator.translate(clients[0])

    assert list(translated.tensors) == list(translator.target_init.tensors)
    for name, tensor in translated.tensors.items():
        torch.testing.assert_close(tensor, expected[name])
        assert not torch.equal(tensor, translator.target_init.tensors[name])


def test_stock_peft_loads_the_saved_translation_with_its_factors(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    translated = translator.translate(clients[0])

    translated.save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pair.target), tmp_path / "adapter")

    loaded = get_peft_model_state_dict(model)
    assert loaded.keys() == translated.state_dict.keys()
    assert len(loaded) == 12 * 2 * 2
    assert all(torch.equal(loaded[key], tensor) for key, tensor in translated.state_dict.items())
    assert load_adapter(tmp_path / "adapter").base_model == str(pair.target)


def test_the_state_dict_is_what_peft_sets(pair: Pair, translator: PeftTranslator, clients: list[Path]) -> None:
    translated = translator.translate(clients[0])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(pair.target), translated.peft_config)

    result = set_peft_model_state_dict(model, translated.state_dict)

    assert result.unexpected_keys == []
    assert all("lora" not in key for key in result.missing_keys)
    assert all(
        torch.equal(value, translated.state_dict[key]) for key, value in get_peft_model_state_dict(model).items()
    )


def test_a_translation_names_what_it_was_made_from(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    translator.translate(clients[:2], weights=[3, 1]).save_pretrained(tmp_path / "adapter")

    report = json.loads((tmp_path / "adapter" / "translation.json").read_text())

    assert report["translator"] == {"name": str(pair.translator), "commit": None}
    assert (report["source_base_model"], report["target_base_model"]) == (str(pair.source), str(pair.target))
    assert [entry["name"] for entry in report["adapters"]] == [str(client) for client in clients[:2]]
    assert [entry["weight"] for entry in report["adapters"]] == [3.0, 1.0]
    assert all(0 < entry["start_distance"] < entry["start_distance_limit"] == 0.5 for entry in report["adapters"])
    assert all(entry["product_error"] < 1e-6 and not entry["gauge_changed"] for entry in report["adapters"])


@pytest.mark.parametrize(
    ("aggregation", "weights", "shares"),
    [
        ("mean", None, (1 / 3, 1 / 3, 1 / 3)),
        ("mean", [2, 1, 1], (0.5, 0.25, 0.25)),
        ("sum", None, (1, 1, 1)),
        ("sum", [0.5, 1, 2], (0.5, 1, 2)),
    ],
)
def test_several_translate_as_the_one_adapter_that_is_their_aggregate(
    translator: PeftTranslator,
    clients: list[Path],
    aggregation: str,
    weights: list[float] | None,
    shares: tuple[float, ...],
    tmp_path: Path,
) -> None:
    start = translator.source_init
    updates = [aligned_update(load_adapter(client), start) for client in clients[:3]]
    aggregate = {
        name: start.tensors[name] + sum(share * update[name] for share, update in zip(shares, updates, strict=True))
        for name in start.tensors
    }
    save_changed(clients[0], tmp_path / "aggregate", aggregate)

    translated = translator.translate(clients[:3], aggregation=aggregation, weights=weights)  # type: ignore[arg-type]

    expected = translator.translate(tmp_path / "aggregate")
    for name, tensor in translated.tensors.items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("aggregation", "kept"), [("median", slice(2, 3)), ("trimmed_mean", slice(1, 4))])
def test_robust_rules_take_the_middle_of_every_coordinate(
    translator: PeftTranslator, clients: list[Path], aggregation: str, kept: slice, tmp_path: Path
) -> None:
    states = [load_adapter(client).tensors for client in clients]
    middle = {name: torch.stack([s[name] for s in states]).sort(0).values[kept].mean(0) for name in states[0]}
    save_changed(clients[0], tmp_path / "middle", middle)

    translated = translator.translate(clients, aggregation=aggregation)  # type: ignore[arg-type]

    expected = translator.translate(tmp_path / "middle")
    for name, tensor in translated.tensors.items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-5)


def test_the_order_of_the_keys_in_the_file_does_not_matter(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    expected = translator.translate(clients[0]).tensors
    save_changed(clients[0], tmp_path / "shuffled", {})
    keyed = load_file(clients[0] / "adapter_model.safetensors")
    order = random.Random(0).sample(sorted(keyed), len(keyed))
    save_file({key: keyed[key] for key in order}, tmp_path / "shuffled" / "adapter_model.safetensors")

    translated = translator.translate(tmp_path / "shuffled").tensors

    assert list(translated) == list(expected)
    assert all(torch.equal(translated[name], expected[name]) for name in expected)


def refactored(client: Path, folder: Path, way: str) -> Path:
    """Write a client's adapter as another tool would: the same update s·B·A in other factors."""
    tensors = dict(load_adapter(client).tensors)
    generator = torch.Generator().manual_seed(1)
    changes: dict[str, object] = {}
    for name in list(tensors):
        if not name.endswith("lora_A"):
            continue
        b_name = name[:-1] + "B"
        a, b = tensors[name].double(), tensors[b_name].double()  # [2, in], [out, 2]
        if way == "alpha":
            b, changes = b / 4, {"lora_alpha": 64}
        elif way == "rslora":
            b, changes = b / 2**0.5, {"lora_alpha": 16, "use_rslora": True}  # s from 8 to 16 / √2
        elif way == "rank 4":
            a = torch.cat([a, 0.1 * torch.randn(a.shape, generator=generator, dtype=a.dtype)])
            b, changes = torch.cat([b, torch.zeros_like(b)], dim=1), {"r": 4, "lora_alpha": 32}
        elif way == "gauge":
            g = torch.randn(2, 2, generator=generator, dtype=a.dtype) + 2 * torch.eye(2, dtype=a.dtype)
            a, b = torch.linalg.inv(g) @ a, b @ g
        tensors[name], tensors[b_name] = a.float(), b.float()
    return save_changed(client, folder, tensors, **changes)


@pytest.mark.parametrize("way", ["alpha", "rslora"])
def test_another_scale_translates_to_the_same_adapter(
    translator: PeftTranslator, clients: list[Path], way: str, tmp_path: Path
) -> None:
    expected = translator.translate(clients[0]).tensors

    translated = translator.translate(refactored(clients[0], tmp_path / "other", way)).tensors

    assert relative_difference(translated, expected, translator.target_init.tensors) < 1e-5


@pytest.mark.parametrize("way", ["rank 4", "gauge"])
def test_another_factorisation_translates_to_nearly_the_same_adapter(
    translator: PeftTranslator, clients: list[Path], way: str, tmp_path: Path
) -> None:
    expected = translator.translate(clients[0])
    other = translator.translate(clients[1])
    start = translator.target_init.tensors

    translated = translator.translate(refactored(clients[0], tmp_path / "other", way))

    difference = relative_difference(translated.tensors, expected.tensors, start)
    assert difference < 0.2 * relative_difference(other.tensors, expected.tensors, start)
    assert translated.report["adapters"][0]["product_error"] < 1e-5


def test_no_language_model_is_made_or_loaded(
    pair: Pair, clients: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a language model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", forbidden)
    monkeypatch.setattr(LlamaForCausalLM, "__init__", forbidden)

    PeftTranslator.from_pretrained(pair.translator).translate(clients[:2]).save_pretrained(tmp_path / "adapter")

    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_one_model_per_projection_gives_the_outputs_of_each_alone(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    source, target = translator.source_init, translator.target_init
    layouts = {"source": source.layout.by_projection(), "target": target.layout.by_projection()}
    models = {
        name: make_model(layouts["source"][name], layouts["target"][name], seed=seed)
        for seed, name in enumerate(["q_proj", "v_proj"], start=1)
    }
    PeftTranslator(models, source, target).save_pretrained(tmp_path / "parts")

    translated = PeftTranslator.from_pretrained(tmp_path / "parts").translate(clients[0]).tensors

    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["parts", "source_init", "target_init"]
    client = load_adapter(clients[0]).tensors
    for name, model in models.items():
        layout = layouts["source"][name]
        inner = {key: client[key] for key in layout.shapes}
        tokens = UpdateVector.between(inner, {key: source.tensors[key] for key in layout.shapes}, layout).tokens
        update = UpdateVector(model.generate_updates(tokens[None])[0], layouts["target"][name])
        expected = update.added_to({key: target.tensors[key] for key in update.layout.shapes})
        for key, tensor in expected.items():
            torch.testing.assert_close(translated[key], tensor)


def test_a_reversed_translator_reads_and_writes_the_last_block_first(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    source, target = translator.source_init, translator.target_init
    layouts = source.layout.reversed(), target.layout.reversed()
    model = make_model(*layouts, seed=3)
    PeftTranslator(model, source, target).save_pretrained(tmp_path / "reversed")

    translated = PeftTranslator.from_pretrained(tmp_path / "reversed").translate(clients[0]).tensors

    tokens = UpdateVector.between(load_adapter(clients[0]).tensors, source.tensors, layouts[0]).tokens
    first = model.generate_updates(tokens[None])[0, 0]  # the first block that is written is the last layer's
    size = 2 * 24
    last_layer = "model.layers.11.self_attn.q_proj.lora_A"
    torch.testing.assert_close(
        translated[last_layer].flatten(), target.tensors[last_layer].flatten() + first[:size], rtol=1e-4, atol=1e-5
    )
    assert list(translated) == list(target.tensors)


def test_a_translator_in_bfloat16_translates_to_nearly_the_same_in_float32(
    pair: Pair, translator: PeftTranslator, clients: list[Path]
) -> None:
    small = PeftTranslator.from_pretrained(pair.translator, dtype=torch.bfloat16)

    translated = small.translate(clients[0]).tensors

    expected = translator.translate(clients[0]).tensors
    saved = small.parts[""].state_dict()
    assert saved["W_out.block.weight"].dtype == torch.bfloat16
    assert saved["W_S_emb.block.weight"].dtype == torch.float32
    assert small.parts[""].target_mean.dtype == torch.float32
    assert {tensor.dtype for tensor in translated.values()} == {torch.float32}
    # bfloat16 keeps 8 bits; the errors of a dozen generated blocks add up
    assert relative_difference(translated, expected, translator.target_init.tensors) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_by_default_a_translator_has_the_number_format_that_it_was_saved_in(
    dtype: torch.dtype, pair: Pair, clients: list[Path], tmp_path: Path
) -> None:
    first = PeftTranslator.from_pretrained(pair.translator, dtype=dtype)
    first.save_pretrained(tmp_path / "again")

    again = PeftTranslator.from_pretrained(tmp_path / "again")

    assert again.parts[""].state_dict()["W_out.block.weight"].dtype == dtype
    translated = [translator.translate(clients[0]).tensors for translator in (first, again)]
    assert all(torch.equal(translated[0][name], translated[1][name]) for name in translated[0])


def test_a_number_format_to_translate_with_that_there_is_none_is_refused(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match=r"got dtype=torch.float64, expected float32, bfloat16, float16 or"):
        PeftTranslator.from_pretrained(pair.translator, dtype=torch.float64)


def test_a_large_translator_is_loaded_to_translate_with_and_saved_whole(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LARGE_BYTES", 0)
    large = PeftTranslator.from_pretrained(pair.translator)
    assert isinstance(large.parts[""].decoder, InferenceStack)

    translated = large.translate(clients, aggregation=AggregationSettings(merge="after")).tensors

    expected = translator.translate(clients, aggregation=AggregationSettings(merge="after")).tensors
    assert relative_difference(translated, expected, translator.target_init.tensors) < 1e-5
    large.save_pretrained(tmp_path / "again")
    plain, again = (load_file(folder / "model.safetensors") for folder in (pair.translator, tmp_path / "again"))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_an_adapter_in_bfloat16_is_translated(translator: PeftTranslator, clients: list[Path], tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_adapter(clients[0]).tensors.items()}

    translated = translator.translate(save_changed(clients[0], tmp_path / "bf16", tensors))

    assert {tensor.dtype for tensor in translated.tensors.values()} == {torch.float32}


def test_an_adapter_that_was_read_already_is_translated(translator: PeftTranslator, clients: list[Path]) -> None:
    adapter = load_adapter(clients[0], name="mine")

    translated = translator.translate(adapter)

    assert translated.report["adapters"][0]["name"] == "mine"


def test_the_start_itself_is_translated(pair: Pair, translator: PeftTranslator) -> None:
    translated = translator.translate(pair.translator / "source_init")

    assert translated.report["adapters"][0]["update_norm"] == 0
    assert translated.report["adapters"][0]["start_distance"] == pytest.approx(0, abs=1e-6)


def test_another_start_is_translated_where_that_is_asked_for(
    pair: Pair, translator: PeftTranslator, tmp_path: Path
) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, seed=77)

    translated = translator.translate(other, allow_other_start=True)

    assert translated.report["adapters"][0]["start_distance"] > 0.5


def test_a_model_in_training_gives_the_same_adapter_every_time(translator: PeftTranslator, clients: list[Path]) -> None:
    source_init, target_init = translator.source_init, translator.target_init
    model = make_model(source_init.layout, target_init.layout).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    fresh = PeftTranslator(model, source_init, target_init)

    first, second = (fresh.translate(clients[0]).tensors for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)
