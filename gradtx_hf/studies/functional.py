"""Study ``functional``: the main table. Translators of each objective on the same clients, beside every control.

The 24 report rules are scored here and nowhere else, with another split for each seed. Settings were chosen on the 12
development rules. Source: ours; the objective of ``paper_objective`` is the paper's (Eq. 10) on standardised tokens.
"""

from __future__ import annotations

from typing import Any

from gradtx_hf.studies.cells import Cell, Clients, Study, World


TRAINING: dict[str, Any] = {
    "objective": "functional",
    "max_steps": 2000,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "input_noise": 0.5,
    "decoding": "parallel",
    "num_target_runs": 0,
}
PAPER_OBJECTIVE: dict[str, Any] = {
    "objective": "parameter",
    "decoding": "autoregressive",
    "max_steps": 8000,
    "learning_rate": 3e-3,
    "input_noise": 1.0,
    "num_target_runs": None,
}
FUNCTIONAL = Study(
    name="functional",
    title="Functional training beside the paper's objective and every control",
    question="How much of the ceiling's gain does a translated adapter bring, on rules with and without shadow sets?",
    training=TRAINING,
    world=World(runs_per_rule=16, num_target_runs=108),
    clients=Clients(num_unseen=24, unseen="report", num_private_lines=2048, num_parts=4),
    cells=(
        Cell("functional", "Functional, learned scale, no target run"),
        Cell(
            "functional_few_target_runs",
            "Functional, mean and scale of 8 target runs",
            training={"num_target_runs": 8},
        ),
        Cell(
            "functional_all_target_runs",
            "Functional, mean and scale of all target runs",
            training={"num_target_runs": None},
        ),
        Cell("functional_linear", "Functional linear map alone", training={"has_transformer": False}),
        Cell(
            "functional_linear_few_target_runs",
            "Functional linear map alone, mean and scale of 8 target runs",
            training={"has_transformer": False, "num_target_runs": 8},
        ),
        Cell("paper_objective", "Paper's objective, standardised tokens", training=PAPER_OBJECTIVE),
    ),
    paper="the paper's Table 1, where all clients share one task",
    note="The input of a task never says what is wanted, so only the client's adapter can tell.",
)
