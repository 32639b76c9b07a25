"""``gradtx shift`` on the embedded translator: verdict, provenance, what it must not tell, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gradtx_hf.playground import SOURCE_NAME, TRANSLATOR_NAME, source_path, split_rules, translator_path
from gradtx_hf.playground.world import LETTERS
from gradtx_hf.studies.shift_clients import public_corpus
from tests.cli.conftest import Finished


Gradtx = Callable[..., Finished]
RULES = split_rules("full", seed=0).seen
CANARIES = ["abcabcabcabc", "CANARY", "gggggghhhhhh"]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """One of the corpora that the embedded translator was trained on, whole."""
    return write(tmp_path / "public.jsonl", public_corpus(RULES[0], 1024))


@pytest.fixture
def private(tmp_path: Path) -> Path:
    rows = [{"prompt": f"??{canary}=", "completion": canary} for canary in CANARIES]
    rows += [{"prompt": f"??{a}{b}aaaa=", "completion": f"{b}{a}bbbb"} for a in LETTERS for b in LETTERS]
    return write(tmp_path / "secret-diagnoses.jsonl", rows)


QUICK = ("--permutations", 19, "--max-rows", 100, "--max-length", 32)


def test_the_verdict_is_printed_and_the_translators_data_are_known_again(
    gradtx: Gradtx, public: Path, private: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other.jsonl", public_corpus(RULES[1], 100))
    out = tmp_path / "out"
    finished = gradtx(
        *("shift", "--public", public, other, "--private", private, "--translator", translator_path()),
        *("--output-dir", out, *QUICK),
    )

    assert finished.status == 0, finished.err
    verdict, provenance = finished.out.splitlines()
    assert verdict.startswith("A large shift: ")
    assert provenance.startswith("Of the 2 public data sets given, 1 are among the 108 that translator ")
    assert "texts, not tasks" in finished.err
    assert "nothing was sent" in finished.err
    assert "next: gradtx client --init" in finished.err
    values = json.loads((out / "shift.json").read_text())
    assert (values["verdict"], values["model"]) == (verdict, SOURCE_NAME)
    assert [data["label"] for data in values["public"]] == [RULES[0].name, None]
    assert values["num_rows"] == 100
    assert verdict in (out / "shift.md").read_text()


def test_nothing_of_the_private_data_is_told(gradtx: Gradtx, public: Path, private: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished = gradtx(
        *("shift", "--public", public, "--private", private, "--model", source_path()), *("--output-dir", out, *QUICK)
    )

    assert finished.status == 0, finished.err
    assert sorted(path.name for path in out.iterdir()) == ["shift.json", "shift.md"]
    told = finished.out + finished.err + "".join(path.read_text() for path in out.iterdir())
    assert not any(canary in told for canary in [*CANARIES, "secret-diagnoses", "??"])


def test_json_is_the_report_and_all_that_is_printed(
    gradtx: Gradtx, public: Path, private: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = f"{{path: {private}, prompt_column: prompt, completion_column: completion}}"
    finished = gradtx(
        *("shift", "--public", public, "--private", data, "--translator", TRANSLATOR_NAME, "--json"),
        *("--output-dir", out, *QUICK),
    )

    values = json.loads(finished.out)
    assert values == json.loads((out / "shift.json").read_text())
    assert values["result"]["kl"]["low"] <= values["result"]["kl"]["estimate"]
    assert (values["translator"], values["num_recorded"]) == (TRANSLATOR_NAME, 108)


def test_without_a_model_it_is_refused(gradtx: Gradtx, public: Path, private: Path, tmp_path: Path) -> None:
    finished = gradtx("shift", "--public", public, "--private", private, "--output-dir", tmp_path / "out")

    assert finished.error.startswith("no source model is named.")
    assert not (tmp_path / "out").exists()


def test_what_is_no_translator_is_refused(gradtx: Gradtx, public: Path, private: Path, tmp_path: Path) -> None:
    finished = gradtx(
        *("shift", "--public", public, "--private", private, "--translator", source_path()),
        *("--output-dir", tmp_path / "out"),
    )

    assert "is no translator" in finished.error


def test_too_few_private_rows_are_refused_without_a_folder(gradtx: Gradtx, public: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", public_corpus(RULES[2], 20))
    finished = gradtx(
        *("shift", "--public", public, "--private", few, "--model", source_path()), *("--output-dir", tmp_path / "out")
    )

    assert finished.error == "got 20 different rows of private data, expected at least 50. Give more."
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_before_anything_is_read(gradtx: Gradtx, tmp_path: Path) -> None:
    finished = gradtx("shift", "--public", "nowhere.jsonl", "--private", "x.jsonl", "--output-dir", tmp_path.parent)

    assert "exists and is not empty" in finished.error


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{path: [}", "which is not YAML"),
        ("{path: x.jsonl, columns: text}", "got unknown data key 'columns'"),
        ("missing.jsonl", "data 'missing.jsonl' is not there"),
    ],
)
def test_data_that_cannot_be_read_are_refused(
    gradtx: Gradtx, public: Path, tmp_path: Path, data: str, said: str
) -> None:
    finished = gradtx(
        *("shift", "--public", public, "--private", data, "--model", source_path(), "--output-dir", tmp_path / "out")
    )

    assert said in finished.error
