"""Reports with invented scores, as a quickstart and a real-text study make them."""

from __future__ import annotations

import numpy as np

from gradtx_hf.evaluation import ClientScores, Report


RULES = {
    "source_client": (0.71, 0.60),
    "target_untouched": (0.0, 0.0),
    "public_finetune": (0.02, 0.01),
    "shadow_mean": (0.0, 0.0),
    "nearest_shadow": (0.77, 0.0),
    "shuffled_input": (0.0, 0.0),
    "ridge": (0.43, 0.07),
    "translated": (0.92, 0.87),
    "ceiling": (0.99, 0.98),
}
BITS = {
    "source_client": 2.61,
    "target_untouched": 2.42,
    "public_finetune": 2.05,
    "shadow_mean": 2.19,
    "nearest_shadow": 2.07,
    "shuffled_input": 2.09,
    "ridge": 2.10,
    "proxy_tuning": 2.20,
    "translated": 2.06,
    "ceiling": 2.03,
}


def rules_report() -> Report:
    """Six clients of seen and six of unseen edit rules; exact match; translation works."""
    rng = np.random.default_rng(0)
    clients = []
    for number in range(12):
        is_unseen = number >= 6
        scores = {
            name: float(np.clip(means[is_unseen] + (means[is_unseen] > 0.03) * rng.normal(0, 0.06), 0, 1))
            for name, means in RULES.items()
        }
        clients.append(ClientScores(f"reverse, shift {number}", not is_unseen, scores, seed=number))
    return Report.from_clients(
        clients,
        metric="exact_match",
        higher_is_better=True,
        seconds={"shadow sets": 41.2, "translator": 60.0, "clients": 12.9},
        config={"seed": 0, "num_shadow_sets": 240, "learning_rate": 1e-3},
        command="gradtx quickstart --output-dir out --seed 0",
    )


def bits_report() -> Report:
    """Eleven clients of real text; bits per character; the public fine-tune is as good as translation."""
    rng = np.random.default_rng(1)
    clients = []
    for number in range(11):
        offset = rng.normal(0, 0.15)
        scores: dict[str, float | None] = {
            name: mean + offset + float(rng.normal(0, 0.01)) for name, mean in BITS.items()
        }
        clients.append(ClientScores(f"corpus {number}", None, scores))
    return Report.from_clients(
        clients, metric="bits_per_character", higher_is_better=False, seconds={"all": 1.0}, config={}
    )
