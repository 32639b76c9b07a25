"""The input distance as part of a translator: in its folder, in reports and in warnings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradtx_hf.errors import LayoutError
from gradtx_hf.lora import load_adapter
from gradtx_hf.translation import InputDistance, PeftTranslator
from gradtx_hf.translation.distance_file import INPUT_DISTANCE_FILE
from tests.translation.clouds import large_layout, write_store
from tests.translation.pair import Pair, make_model, save_changed


@pytest.fixture(scope="module")
def measuring(translator: PeftTranslator, tmp_path_factory: pytest.TempPathFactory) -> PeftTranslator:
    """Return a translator whose shadow sets moved the start as the clients of these tests do: by noise of 0.02."""
    layout = translator.source_init.layout
    generator = torch.Generator().manual_seed(100)
    updates = 0.02 * torch.randn(40, layout.num_blocks, layout.block_dim, generator=generator) * layout.mask()
    store = write_store(tmp_path_factory.mktemp("measuring") / "store", updates, layout)
    return replace_distance(translator, InputDistance.fit(store, fit_sets=range(35), held_out_sets=range(35, 40)))


def replace_distance(translator: PeftTranslator, distance: InputDistance | None) -> PeftTranslator:
    return PeftTranslator(
        translator.model, translator.source_init, translator.target_init, name="t", input_distance=distance
    )


def scaled(client: Path, start: PeftTranslator, folder: Path, factor: float) -> Path:
    """Write a client's adapter with its update multiplied."""
    before, after = start.source_init.tensors, load_adapter(client).tensors
    return save_changed(client, folder, {name: before[name] + factor * (after[name] - before[name]) for name in before})


def test_adapters_like_the_shadow_sets_are_translated_without_a_warning(
    measuring: PeftTranslator, clients: list[Path]
) -> None:
    report = measuring.translate(clients).report

    assert measuring.input_distance is not None
    assert report["warnings"] == []
    assert {entry["input_distance_limit"] for entry in report["adapters"]} == {measuring.input_distance.limit}
    assert all(0.8 < entry["input_distance"] < measuring.input_distance.limit for entry in report["adapters"])
    assert report["input_distance"] < min(entry["input_distance"] for entry in report["adapters"])  # of their mean


def test_one_adapter_has_one_distance(measuring: PeftTranslator, clients: list[Path]) -> None:
    report = measuring.translate(clients[0]).report

    assert report["input_distance"] == report["adapters"][0]["input_distance"]


def test_an_adapter_off_the_map_is_named_in_one_line_and_translated(
    measuring: PeftTranslator, clients: list[Path], tmp_path: Path
) -> None:
    far = scaled(clients[0], measuring, tmp_path / "far", 4)

    translated = measuring.translate([far, clients[1]])
    translated.save_pretrained(tmp_path / "out")

    assert measuring.input_distance is not None
    distance, limit = translated.report["adapters"][0]["input_distance"], measuring.input_distance.limit
    first, second = translated.report["warnings"]
    assert first == (
        f"adapter '{far}' lies off the map: its update is {distance / limit:.3g} times as far from the shadow sets' as "
        f"any like them would be (distance {distance:.3g}, limit {limit:.3g}). Its translation may be worthless: train "
        "it as the provider trained the shadow sets, or check the result on data of your own."
    )
    assert distance > 3 * limit
    assert second.startswith("the mean of the adapters lies off the map: ")


def test_an_aggregate_can_lie_off_the_map_where_no_adapter_does(measuring: PeftTranslator, clients: list[Path]) -> None:
    summed = measuring.translate(clients, aggregation="sum").report
    weighted = measuring.translate(clients[0], aggregation="sum", weights=[4]).report

    for report in (summed, weighted):
        (warning,) = report["warnings"]
        assert re.match(r"the sum of the adapters lies off the map: its update is \d\.\d+ times as far", warning)
        assert report["input_distance"] > report["input_distance_limit"]


def test_the_folder_keeps_the_distance(measuring: PeftTranslator, clients: list[Path], tmp_path: Path) -> None:
    measuring.save_pretrained(tmp_path / "kept")
    loaded = PeftTranslator.from_pretrained(tmp_path / "kept")

    assert (tmp_path / "kept" / INPUT_DISTANCE_FILE).is_file()
    for key in ("input_distance", "input_distance_limit", "warnings"):
        assert loaded.translate(clients[0]).report[key] == measuring.translate(clients[0]).report[key]


def test_a_translator_without_the_file_measures_nothing(pair: Pair, clients: list[Path]) -> None:
    report = PeftTranslator.from_pretrained(pair.translator).translate(clients[:2]).report

    assert (report["input_distance"], report["input_distance_limit"], report["warnings"]) == (None, None, [])
    assert [entry["input_distance"] for entry in report["adapters"]] == [None, None]


def test_a_translator_of_parts_measures_the_whole_update(measuring: PeftTranslator, clients: list[Path]) -> None:
    source, target = measuring.source_init.layout.by_projection(), measuring.target_init.layout.by_projection()
    models = {name: make_model(source[name], target[name]) for name in source}
    parts = PeftTranslator(
        models, measuring.source_init, measuring.target_init, input_distance=measuring.input_distance
    )

    distances = [t.translate(clients[0]).report["input_distance"] for t in (parts, measuring)]

    assert distances[0] == distances[1]


def test_a_distance_of_other_updates_is_refused(measuring: PeftTranslator) -> None:
    assert measuring.input_distance is not None
    other = replace(measuring.input_distance, layout=large_layout())

    with pytest.raises(LayoutError, match="the input distance of translator 't' is of other updates: "):
        replace_distance(measuring, other)


def test_a_damaged_distance_is_refused_when_the_translator_is_loaded(measuring: PeftTranslator, tmp_path: Path) -> None:
    measuring.save_pretrained(tmp_path / "damaged")
    path = tmp_path / "damaged" / INPUT_DISTANCE_FILE
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(LayoutError, match=f"of translator '{tmp_path}/damaged' is truncated or damaged"):
        PeftTranslator.from_pretrained(tmp_path / "damaged")

    path.unlink()
    assert PeftTranslator.from_pretrained(tmp_path / "damaged").input_distance is None


def test_the_distance_leaves_the_translation_alone(
    translator: PeftTranslator, measuring: PeftTranslator, clients: list[Path]
) -> None:
    expected, got = (t.translate(clients[0]).tensors for t in (translator, measuring))

    assert all(torch.equal(got[name], expected[name]) for name in expected)
