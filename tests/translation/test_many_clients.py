"""Several clients through a translator: reports, clients left out, other ranks, merging after translation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import AdapterError, ConfigurationError, GradTxError, LayoutError, MissingFileError
from gradtx_hf.lora import Adapter, load_adapter
from gradtx_hf.translation import AggregationSettings, PeftTranslator, SourceUpdate
from gradtx_hf.translation.adapter_card import public_report
from gradtx_hf.translation.records import load_translation
from tests.tiny import save_tiny_adapter
from tests.translation.pair import Pair, save_changed


def with_nan(adapter: Adapter) -> Adapter:
    """Return an adapter one number of which is none."""
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    next(iter(tensors.values()))[0, 0] = float("nan")
    return replace(adapter, name="the broken one", tensors=tensors)


def save_with_nan(client: Path, folder: Path) -> Path:
    return save_changed(client, folder, with_nan(load_adapter(client)).tensors)


def test_the_report_says_what_each_client_has_to_do_with_the_aggregate(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    translated = translator.translate(clients, aggregation=AggregationSettings("trimmed_mean", trim=2))
    translated.save_pretrained(tmp_path / "out")

    report = json.loads((tmp_path / "out" / "translation.json").read_text())
    assert (report["aggregation"], report["aggregation_settings"]) == ("trimmed_mean", {"merge": "before", "trim": 2})
    assert report["skipped"] == []
    assert sum(entry["share"] for entry in report["adapters"]) == pytest.approx(1)
    for entry in report["adapters"]:
        assert 0.1 < entry["share"] < 0.3
        assert 0 < entry["cosine_to_aggregate"] < 1
        assert entry["distance_to_others"] == pytest.approx(2**0.5 * entry["update_norm"], rel=0.2)  # independent noise
    assert load_translation(tmp_path / "out", name="out") is not None


def test_the_order_of_the_clients_does_not_matter(translator: PeftTranslator, clients: list[Path]) -> None:
    one, other = (translator.translate(order, aggregation="median").tensors for order in (clients, clients[::-1]))

    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


def test_an_update_with_nan_is_refused_by_name(translator: PeftTranslator, clients: list[Path], tmp_path: Path) -> None:
    broken = save_with_nan(clients[0], tmp_path / "broken")
    adapter = with_nan(load_adapter(clients[0]))
    aligned = replace(translator.read(clients[0]), adapter=adapter)

    for bad, name in ((broken, str(broken)), (adapter, "the broken one"), (aligned, "the broken one")):
        with pytest.raises(AdapterError, match=f"of adapter '{name}' holds NaN or infinite values. Train it again"):
            translator.translate([clients[1], bad])


def test_a_scale_that_makes_numbers_infinite_is_refused_by_name(
    translator: PeftTranslator, clients: list[Path]
) -> None:
    adapter = load_adapter(clients[0], name="too large")
    adapter.config.lora_alpha = 10**6
    tensors = {n: torch.full_like(t, 1e35) if n.endswith("lora_B") else t for n, t in adapter.tensors.items()}

    with pytest.raises(AdapterError, match="of adapter 'too large' holds NaN or infinite values"):
        translator.translate([clients[1], replace(adapter, tensors=tensors)])


def test_a_client_that_is_left_out_counts_for_nothing_and_is_named(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    broken = save_with_nan(clients[1], tmp_path / "broken")

    translated = translator.translate([clients[0], broken, clients[2]], weights=[1, 5, 3], skip_invalid=True)

    expected = translator.translate([clients[0], clients[2]], weights=[1, 3])
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in translated.tensors.items())
    report = translated.report
    assert [entry["name"] for entry in report["adapters"]] == [str(clients[0]), str(clients[2])]
    assert [entry["share"] for entry in report["adapters"]] == [0.25, 0.75]
    (skipped,) = report["skipped"]
    assert skipped["name"] == str(broken)
    assert "holds NaN or infinite values" in skipped["reason"]
    assert report["warnings"] == [f"adapter '{broken}' was left out: {skipped['reason']}"]


def test_a_client_of_another_start_is_left_out_too(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, seed=77)

    report = translator.translate([other, clients[0]], skip_invalid=True).report

    assert "did not start from this translator's source_init" in report["skipped"][0]["reason"]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (None, AdapterError, "none of 2 adapters can be used. The first: tensor "),
        ([1.0], ConfigurationError, "got 1 weights for 2 adapters"),
    ],
)
def test_where_nobody_is_left_or_weights_do_not_fit_all_is_refused(
    weights: list[float] | None,
    error: type[GradTxError],
    message: str,
    translator: PeftTranslator,
    clients: list[Path],
    tmp_path: Path,
) -> None:
    broken = [save_with_nan(client, tmp_path / client.name) for client in clients[:2]]

    with pytest.raises(error, match=message):
        translator.translate(broken, weights=weights, skip_invalid=True)


def test_where_only_clients_without_weight_are_left_all_is_refused(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    broken = save_with_nan(clients[0], tmp_path / "broken")

    with pytest.raises(ConfigurationError, match="not all zero"):
        translator.translate([clients[1], broken], weights=[0, 1], skip_invalid=True)


def test_a_name_that_is_nothing_is_refused_all_the_same(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(MissingFileError):
        translator.translate([clients[0], tmp_path / "misspelt" / "name"], skip_invalid=True)


def test_merging_after_translation_aggregates_what_each_becomes(
    translator: PeftTranslator, clients: list[Path]
) -> None:
    each = [translator.translate(client).tensors for client in clients[:3]]

    translated = translator.translate(clients[:3], aggregation=AggregationSettings("median", merge="after"))

    for name, tensor in translated.tensors.items():
        expected = torch.stack([tensors[name] for tensors in each]).median(0).values
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
    report = translated.report
    assert report["aggregation_settings"] == {"merge": "after"}
    assert sum(entry["share"] for entry in report["adapters"]) == pytest.approx(1)


def test_one_client_is_the_same_before_and_after(translator: PeftTranslator, clients: list[Path]) -> None:
    before, after = (
        translator.translate(clients[0], aggregation=AggregationSettings(merge=merge)).tensors
        for merge in ("before", "after")
    )

    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def of_rank(client: Path, start: Adapter, rank: int) -> Adapter:
    """Return a client that began with rows of the start, or with these and more, at the start's scale."""
    adapter = load_adapter(client, name=f"rank {rank}")
    generator = torch.Generator().manual_seed(rank)
    tensors = {}
    for name, tensor in adapter.tensors.items():
        axis = 0 if name.endswith("lora_A") else 1
        more = 0.02 * torch.randn(tensor.shape, generator=generator) + (0.3 if axis == 0 else 0)
        tensors[name] = torch.cat([tensor, more, more], dim=axis).narrow(axis, 0, rank).contiguous()
    adapter.config.lora_alpha = round(adapter.config.lora_alpha * rank / adapter.config.r)
    adapter.config.r = rank
    return replace(adapter, tensors=tensors)


def test_clients_of_other_ranks_join(translator: PeftTranslator, clients: list[Path]) -> None:
    start = translator.source_init
    ranks = (1, 2, 4, 6)
    adapters = [of_rank(client, start, rank) for client, rank in zip(clients, ranks, strict=False)]

    sources = [translator.read(adapter) for adapter in adapters]
    report = translator.translate(adapters).report

    assert report["warnings"] == []
    for rank, client, source in zip(ranks, clients, sources, strict=False):
        own = load_adapter(client).tensors
        for name, tensor in source.alignment.state.items():
            axis = 0 if name.endswith("lora_A") else 1
            kept = min(rank, 2)
            torch.testing.assert_close(tensor.narrow(axis, 0, kept), own[name].narrow(axis, 0, kept))
            added = tensor.narrow(axis, kept, 2 - kept)
            torch.testing.assert_close(added, start.tensors[name].narrow(axis, kept, 2 - kept))


def test_what_was_read_already_can_be_left_out(translator: PeftTranslator, clients: list[Path]) -> None:
    read = translator.read(clients[0])
    bad = SourceUpdate(with_nan(read.adapter), read.alignment)

    report = translator.translate([read, bad, with_nan(read.adapter)], skip_invalid=True).report

    assert [entry["name"] for entry in report["skipped"]] == ["the broken one", "the broken one"]


def test_another_layout_is_left_out_by_name(
    pair: Pair, translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    other = save_tiny_adapter(tmp_path / "other", base=pair.source, target_modules=("q_proj", "k_proj"))

    with pytest.raises(LayoutError):
        translator.translate([clients[0], other])
    assert translator.translate([clients[0], other], skip_invalid=True).report["skipped"][0]["name"] == str(other)


def test_a_published_report_names_no_folder_of_who_was_left_out(
    translator: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    broken = save_with_nan(clients[1], tmp_path / "broken")
    report = translator.translate([clients[0], broken], skip_invalid=True).report

    public = public_report(report)

    assert [entry["name"] for entry in public["adapters"]] == ["local adapter 1"]
    assert [entry["name"] for entry in public["skipped"]] == ["local adapter 2"]
    assert str(broken) not in json.dumps(public)
    assert public["warnings"][0].startswith("adapter 'local adapter 2' was left out: tensor ")
