from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradtx_hf.errors import LayoutError
from gradtx_hf.translation import InputDistance
from gradtx_hf.translation.distance_file import INPUT_DISTANCE_FILE, load_input_distance, save_input_distance
from tests.translation.clouds import Cloud, large_layout, write_store


LAYOUT = large_layout()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> InputDistance:
    store = write_store(tmp_path_factory.mktemp("file") / "store", Cloud(LAYOUT).draw(12, seed=1), LAYOUT)
    return InputDistance.fit(store, fit_sets=range(12), held_out_sets=())


def test_what_was_saved_is_loaded_bit_by_bit(fitted: InputDistance, tmp_path: Path) -> None:
    save_input_distance(tmp_path, fitted)
    loaded = load_input_distance(tmp_path, name="t")

    assert loaded is not None
    for got, expected in (
        (loaded.mean, fitted.mean),
        (loaded.std, fitted.std),
        (loaded.components, fitted.components),
        (loaded.variances, fitted.variances),
    ):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    assert loaded.layout == fitted.layout
    assert (loaded.limit, loaded.inside_limit, loaded.outside_limit) == (
        fitted.limit,
        fitted.inside_limit,
        fitted.outside_limit,
    )
    assert [loaded.measure(update) for update in Cloud(LAYOUT).draw(3, seed=2)] == [
        fitted.measure(update) for update in Cloud(LAYOUT).draw(3, seed=2)
    ]


def test_saving_again_gives_the_same_bytes(fitted: InputDistance, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_input_distance(tmp_path / name, fitted)

    assert (tmp_path / "a" / INPUT_DISTANCE_FILE).read_bytes() == (tmp_path / "b" / INPUT_DISTANCE_FILE).read_bytes()


def test_a_folder_without_the_file_has_none(tmp_path: Path) -> None:
    assert load_input_distance(tmp_path, name="t") is None


def rewrite(change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes the tensors and the header's values of a file."""

    def act(path: Path) -> None:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as opened:
            values = json.loads(opened.metadata()["input_distance"])
        change(tensors, values)
        save_file(tensors, path, metadata={"input_distance": json.dumps(values)})

    return act


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is truncated or damaged": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "its header has 18446744073709551615 bytes": lambda path: path.write_bytes(b"\xff" * 40),
    "is a Git-LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "'mean' holds NaN or infinite values": rewrite(lambda t, v: t["mean"].fill_(float("nan"))),
    "'components' holds NaN or infinite values": rewrite(lambda t, v: t["components"].fill_(float("inf"))),
    "'std' holds values that are not > 0": rewrite(lambda t, v: t["std"].fill_(0)),
    "'variances' holds values that are not > 0": rewrite(lambda t, v: t["variances"].fill_(-1)),
    "got no components": rewrite(
        lambda t, v: t.update(components=t["components"][:0].clone(), variances=t["variances"][:0].clone())
    ),
    "got tensors": rewrite(lambda t, v: t.update(mean=t["mean"][:2].clone())),
    "damaged ('variances')": rewrite(lambda t, v: t.pop("variances")),
    "got format 'new', expected": rewrite(lambda t, v: v.update(format="new")),
    "expected 0123": rewrite(lambda t, v: v.update(fingerprint="0123")),
    "no block layout": rewrite(lambda t, v: v.update(layout={"blocks": [{}]})),
    "got limit nan": rewrite(lambda t, v: v.update(limit=float("nan"))),
    "got inside_limit -1.0": rewrite(lambda t, v: v.update(inside_limit=-1)),
    "damaged ('outside_limit')": rewrite(lambda t, v: v.pop("outside_limit")),
    "('NoneType' object is not subscriptable)": lambda path: save_file(load_file(path), path),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(words: str, fitted: InputDistance, tmp_path: Path) -> None:
    save_input_distance(tmp_path, fitted)
    DAMAGES[words](tmp_path / INPUT_DISTANCE_FILE)

    with pytest.raises(LayoutError) as caught:
        load_input_distance(tmp_path, name="me/translator")

    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.startswith("input_distance.safetensors of translator 'me/translator' ")
