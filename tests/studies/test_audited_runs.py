from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.studies import audited_runs
from gradtx_hf.studies.audited_runs import AuditSettings, study_audited_runs


TOY = AuditSettings(
    num_runs=2,
    num_rows=8,
    gradient_canaries=60,
    gradient_rank=2,
    gradient_steps=2,
    text_canaries=24,  # whose sample rate is that of the gradient runs: the noise is found once
    text_rank=2,
    text_steps=2,
)


@pytest.mark.slow
def test_a_study_reports_every_run_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = study_audited_runs(tmp_path, settings=TOY)

    assert list(report["runs"]) == [
        "self_test",
        "gradient_01",
        "gradient_02",
        "gradient_little_noise",
        "text_private",
        "text_not_private",
    ]
    assert report["runs"]["self_test"]["passed"]
    assert report["aims_met"]["the trainer passes the self-test"]
    assert all(1.9 < report["runs"][f"gradient_0{i}"]["privacy"]["epsilon"] <= 2 for i in (1, 2))
    assert report["runs"]["text_not_private"]["privacy"] is None
    assert report["settings"]["confidence_of_each"] == pytest.approx(1 - 0.05 / 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "settings.json",
        "runs",
        "audited_runs.json",
        "audited_runs.md",
        "audited_runs.png",
    }
    assert json.loads((tmp_path / "audited_runs.json").read_text()) == json.loads(json.dumps(report))
    text = (tmp_path / "audited_runs.md").read_text()
    assert "2 private runs claim ε = 2 at δ = 1e-05." in text
    assert "| text not private | ∞ (not private) | - |" in text

    (tmp_path / "runs" / "gradient_02.json").unlink()
    made: list[str] = []
    monkeypatch.setattr(audited_runs, "_gradient_run", lambda *_: made.append("run") or report["runs"]["gradient_01"])
    again = study_audited_runs(tmp_path, settings=TOY)

    assert made == ["run"]
    assert again["runs"]["gradient_01"] == report["runs"]["gradient_01"]


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"num_runs": 3}))

    with pytest.raises(ConfigurationError, match="holds runs of other settings"):
        study_audited_runs(tmp_path, settings=TOY)


@pytest.mark.long
def test_over_thirty_audited_runs_no_bound_exceeds_the_claim_and_the_controls_are_caught(tmp_path: Path) -> None:
    report = study_audited_runs(tmp_path, settings=replace(AuditSettings(), num_runs=30))

    assert all(report["aims_met"].values()), report["aims_met"]
    assert report["mean_bound"] > 0.3
    assert report["runs"]["text_not_private"]["membership"]["auc"] > 0.95
