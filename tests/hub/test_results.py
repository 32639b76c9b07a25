from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation import Report
from gradtx_hf.evaluation.headline import headline
from gradtx_hf.hub.results import Results


REPORTS = sorted((Path(__file__).parents[2] / "examples" / "results").glob("*.json"))


def values_of(name: str) -> dict[str, Any]:
    return json.loads(next(path for path in REPORTS if path.stem == name).read_text())


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_every_method_of_a_report_is_in_the_table_and_in_the_metadata(path: Path) -> None:
    values = json.loads(path.read_text())
    results = Results.read(values)

    text = results.to_markdown()
    for name in values["summary"]["all"]["methods"]:
        assert f"| {name.replace('_', ' ')} |" in text or f"| **{name.replace('_', ' ')}** |" in text
    for result, group in zip(results.to_model_index("x")[0]["results"], results.groups, strict=True):
        scores = {entry["name"]: entry["value"] for entry in result["metrics"]}
        for name, method in values["summary"][group.name]["methods"].items():
            assert scores[f"{results.metric}, {name}"] == pytest.approx(method["score"]["mean"], abs=1e-6)
        gain = values["summary"][group.name]["gain_recovered"]["value"]
        assert result["metrics"][0]["value"] == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_the_verdict_is_no_kinder_than_the_reports_own(path: Path) -> None:
    values = json.loads(path.read_text())
    lines = Results.read(values).to_markdown().splitlines()

    for line, group in zip(lines, Report.from_json(values).groups, strict=False):
        own = headline(Report.from_json(values), group)
        assert ("at least as good" in own) == ("At least as good" in line)
        assert ("by chance" in own) == ("may be chance" in line)


def test_a_control_that_does_as_well_is_named() -> None:
    text = Results.read(values_of("conventions")).to_markdown()

    assert "- Seen tasks (15 clients): **At least as good as the translated adapter: `nearest_shadow`.**" in text


def test_a_gain_that_cannot_be_told_is_left_out() -> None:
    values = values_of("conventions")
    values["summary"]["seen"]["methods"]["translated"]["gain_recovered"] = {
        "value": None, "reason": "no gap", "low": None, "high": None,
    }  # fmt: skip

    seen, unseen = Results.read(values).to_model_index("x")[0]["results"]

    assert not [entry for entry in seen["metrics"] if entry["type"] == "gain_recovered"]
    assert [entry for entry in unseen["metrics"] if entry["type"] == "gain_recovered"]


@pytest.mark.parametrize(
    "path", [("metric",), ("summary", "seen", "methods"), ("summary",), ("summary", "seen", "num_clients")]
)
@pytest.mark.parametrize("value", [None, "text", [], 3.5])
def test_what_is_no_report_is_refused_in_one_line(path: tuple[str, ...], value: object) -> None:
    values = copy.deepcopy(values_of("conventions"))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    if path[-1] == "num_clients" and value == 3.5:
        return
    with pytest.raises(DataError, match="no report") as refused:
        Results.read(values)
    assert "\n" not in str(refused.value)
