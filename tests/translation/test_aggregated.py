"""Several adapters as one source adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from gradtx_hf.errors import AdapterError, ConfigurationError, OutputExistsError
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import AggregationSettings, PeftTranslator, aggregate_adapters
from tests.tiny import save_tiny_adapter
from tests.translation.pair import Pair


def test_it_is_the_mean_of_the_factors_and_loads_with_stock_peft(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    aggregated = aggregate_adapters(clients[:3], translator.start, weights=[1, 1, 2])

    aggregated.save_pretrained(tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "aggregation.json",
    ]
    states = [load_adapter(client).tensors for client in clients[:3]]
    saved = load_adapter(tmp_path / "out")
    for name, tensor in saved.tensors.items():
        expected = (states[0][name] + states[1][name] + 2 * states[2][name]) / 4
        torch.testing.assert_close(tensor, expected)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pair.source), tmp_path / "out")
    assert len(get_peft_model_state_dict(model)) == len(saved.tensors)


@pytest.mark.parametrize("rule", ["mean", "median", "clipped_mean", "ties"])
def test_translating_it_is_translating_the_clients(
    rule: str, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    aggregate_adapters(clients, translator.start, aggregation=rule).save_pretrained(tmp_path / "out")  # type: ignore[arg-type]

    translated = translator.translate(tmp_path / "out").tensors

    expected = translator.translate(clients, aggregation=rule).tensors  # type: ignore[arg-type]
    for name, tensor in translated.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_its_report_names_who_took_part_and_who_did_not(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, seed=77)

    aggregate_adapters([clients[0], other, clients[1]], translator.start, skip_invalid=True).save_pretrained(
        tmp_path / "out"
    )

    report = json.loads((tmp_path / "out" / "aggregation.json").read_text())
    assert [entry["name"] for entry in report["adapters"]] == [str(clients[0]), str(clients[1])]
    assert [entry["share"] for entry in report["adapters"]] == [0.5, 0.5]
    assert [entry["name"] for entry in report["skipped"]] == [str(other)]
    assert (report["aggregation"], report["source_base_model"]) == ("mean", str(pair.source))
    assert report["update_norm"] > 0


def test_what_makes_no_sense_is_refused(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, seed=77)

    with pytest.raises(AdapterError, match=f"adapter '{other}' did not start from this translator's source_init"):
        aggregate_adapters([clients[0], other], translator.start)
    with pytest.raises(ConfigurationError, match="merge='after' needs a translation to come after"):
        aggregate_adapters(clients, translator.start, aggregation=AggregationSettings(merge="after"))
    with pytest.raises(ConfigurationError, match="got no adapter"):
        aggregate_adapters([], translator.start)
    with pytest.raises(OutputExistsError):
        aggregate_adapters(clients, translator.start).save_pretrained(clients[0])
