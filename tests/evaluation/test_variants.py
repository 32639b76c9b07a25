"""The translation in another form is shown as such, and is no rival in the verdict."""

from __future__ import annotations

from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.evaluation.headline import headline
from gradtx_hf.evaluation.methods import method_of


SCORES = {"target_untouched": 0.0, "nearest_shadow": 0.1, "translated": 0.5, "ceiling": 1.0}


def _headline(**more: float) -> str:
    clients = [ClientScores(f"task {i}", True, SCORES | more) for i in range(4)]
    report = Report.from_clients(
        clients, metric="exact_match", higher_is_better=True, seconds={}, config={}, command=""
    )
    return headline(report, "seen")


def test_weights_written_as_lora_are_named() -> None:
    assert method_of("lora_of_rank_32").label == "The translation as LoRA of rank 32"


def test_another_form_of_the_translation_is_no_rival() -> None:
    assert "LoRA" not in _headline(lora_of_rank_32=0.6)
    assert "added nothing beyond another way" in _headline(another_way=0.6)
