"""Study ``many_clients``: several clients in one translation, and clients whose data are mixtures.

Five clients of one rule share its private lines, 90 % to train on and 10 % to be scored on; three clients of three
rules become one adapter, which the inputs do not tell when to be which; clients of Dirichlet mixtures of three rules
are translated one by one, by a translator that has seen single rules alone. Source: the paper's studies of many
clients, at the playground's size; medians, trimmed means, and the sizes of mixtures are ours.
"""

from __future__ import annotations

from typing import Any

from gradtx_hf.studies.cells import Cell, Clients, Study
from gradtx_hf.studies.functional import FUNCTIONAL


NUM_LINES = 2560
"""Private lines of a rule."""
SHARE_TO_TRAIN = 0.9
FIVE: dict[str, Any] = {
    "num_members": 5,
    "num_private_lines": int(SHARE_TO_TRAIN * NUM_LINES / 5),
    "num_test_lines": NUM_LINES // 5 - int(SHARE_TO_TRAIN * NUM_LINES / 5),
}
THREE_TASKS: dict[str, Any] = {"num_members": 3, "has_own_tasks": True}
MIXTURES: dict[str, Any] = {"num_mixed_rules": 3}

MANY_CLIENTS = Study(
    name="many_clients",
    title="Many clients",
    question="What is lost where several clients' updates become one before translation, or a client's data are mixed?",
    training=FUNCTIONAL.training,
    main="five_mean",
    world=FUNCTIONAL.world,
    clients=Clients(num_seen=3, num_unseen=6, unseen="report", num_private_lines=460, num_test_lines=60),
    cells=(
        Cell("one_fifth", "One client with a fifth of the lines", clients={**FIVE, "num_members": 1}),
        Cell("five_mean", "Five clients of one rule, mean", clients=FIVE),
        Cell("five_median", "Five clients of one rule, median", clients={**FIVE, "aggregation": "median"}),
        Cell("five_trimmed", "Five clients of one rule, trimmed mean", clients={**FIVE, "aggregation": "trimmed_mean"}),
        Cell("own_tasks_mean", "Three clients of three rules, mean", clients=THREE_TASKS),
        Cell("own_tasks_sum", "Three clients of three rules, sum", clients={**THREE_TASKS, "aggregation": "sum"}),
        Cell("own_tasks_alone", "The same three, each translated alone", clients={}),
        *(
            Cell(
                f"dirichlet_{alpha}".replace(".", "_"),
                f"Mixtures of three rules, Dirichlet({alpha}), one by one",
                clients={**MIXTURES, "dirichlet_alpha": float(alpha)},
            )
            for alpha in ("0.1", "0.5", "2")
        ),
    ),
    paper="the paper's multi-client tables (mean PGR 85.01 % of five clients, 80.68 % of three tasks)",
    note=(
        "The ceiling is the target fine-tuned on the lines of all clients of a translation. Where these are of several "
        "rules, no input says which is meant: no adapter, the ceiling neither, can complete more lines than those of "
        "one rule at a time, about a third. Each translation's clients of one rule are one row, scored on the held-out "
        "lines of them all; rows of a mixture are one client, scored on its own mixture."
    ),
)
