"""A study of seconds on the embedded pair: two cells that share a store, one that has its own, one that is noisy."""

from __future__ import annotations

from typing import Any

from gradtx_hf.studies.cells import Cell, Clients, Study, World


RECIPE: dict[str, Any] = {"num_steps": 4, "batch_size": 4, "learning_rate": 5e-3, "max_length": 32}
TRAINING: dict[str, Any] = {
    "objective": "functional",
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "linear_rank": 4,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
}
TOY = Study(
    name="toy",
    title="A toy",
    question="Does it run?",
    training=TRAINING,
    world=World(
        num_rules=3,
        runs_per_rule=2,
        samples_per_set=8,
        num_snapshots=2,
        num_target_runs=3,
        source_recipe=RECIPE,
        target_recipe=RECIPE,
    ),
    clients=Clients(
        num_seen=2, num_unseen=2, num_private_lines=16, num_test_lines=8, num_ceiling_steps=6, num_public_steps=4
    ),
    cells=(
        Cell("functional", "Functional"),
        Cell("paper_objective", "Paper's", training={"objective": "parameter", "num_target_runs": None}),
    ),
    paper="the paper's Table 0",
    note="A note.",
)
NOISY = Study(
    name="noisy",
    title="Noise",
    question="Does noise hurt?",
    training=TRAINING,
    world=TOY.world,
    clients=TOY.clients,
    cells=tuple(
        Cell(f"noise_{n}", f"noise {n}", client_noise=float(n), x=str(n), series="functional") for n in (0, 100)
    ),
    x_axis="noise",
)
