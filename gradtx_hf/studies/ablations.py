"""The ablations: the paper's Tables 2 and 4 and Figures 5 and 8, and ours; each cell a minute of training on one core.

Cells have fewer shadow sets or steps than the main table (study ``functional``): compare them with each other only.
All are scored on the 12 development rules, never on the report's. Source: ours, unless a study names the paper.
"""

from __future__ import annotations

from typing import Any

from gradtx_hf.studies.cells import Cell, Clients, Study, World


NUM_FUNCTIONAL_STEPS = 500
NUM_PARAMETER_STEPS = 1500
"""Optimizer steps that take about a minute on one core."""
FUNCTIONAL: dict[str, Any] = {
    "objective": "functional",
    "max_steps": NUM_FUNCTIONAL_STEPS,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "input_noise": 0.5,
    "decoding": "parallel",
    "num_target_runs": 8,
}
PARAMETER: dict[str, Any] = {
    "objective": "parameter",
    "decoding": "autoregressive",
    "lr_scheduler_type": "linear",
    "max_steps": NUM_PARAMETER_STEPS,
    "learning_rate": 3e-3,
    "warmup_steps": 75,
    "input_noise": 1.0,
    "num_target_runs": None,
}
PAIRED = World(num_rules=36, runs_per_rule=3, num_target_runs=None)
"""A target run for every shadow set, as the paper's objective needs; few rules, as it carries hardly any of many."""


def _both(name: str, label: str, *, x: str, world: dict[str, Any]) -> tuple[Cell, Cell]:
    """Return one point of the axis for each objective."""
    return (
        Cell(f"functional_{name}", f"Functional, {label}", world=world, x=x, series="functional"),
        Cell(f"parameter_{name}", f"Parameter, {label}", world=world, training=PARAMETER, x=x, series="parameter"),
    )


PARTITIONS = Study(
    name="partitions",
    title="How updates are taken apart",
    question="Does it matter whether a token is a whole block, and in which order blocks are generated?",
    training=PARAMETER,
    world=PAIRED,
    cells=(
        Cell("parameter_block", "Parameter, block-wise"),
        Cell("parameter_projection", "Parameter, q and v separately", training={"partition": "projection"}),
        Cell("parameter_reversed", "Parameter, blocks in reversed order", training={"partition": "reversed"}),
        Cell("functional_block", "Functional, block-wise", training={**FUNCTIONAL, "decoding": "autoregressive"}),
        Cell(
            "functional_reversed",
            "Functional, blocks in reversed order",
            training={**FUNCTIONAL, "decoding": "autoregressive", "partition": "reversed"},
        ),
    ),
    paper="the paper's Table 4 (63.57 block-wise, 63.61 q and v separately, 39.73 reversed)",
)
NUM_PAIRS = Study(
    name="num_pairs",
    title="Number of shadow sets",
    question="How many shadow sets does a translator need, at the same number of different rules?",
    training=FUNCTIONAL,
    main="functional_all",
    world=World(num_rules=24, runs_per_rule=8, num_target_runs=None),
    cells=(
        *_both("eighth", "1/8 of the shadow sets", x="1/8", world={"runs_per_rule": 1}),
        *_both("quarter", "1/4 of the shadow sets", x="1/4", world={"runs_per_rule": 2}),
        *_both("half", "1/2 of the shadow sets", x="1/2", world={"runs_per_rule": 4}),
        *_both("all", "all shadow sets", x="all", world={"runs_per_rule": 8}),
    ),
    paper="the paper's Figure 8 (converged at 1,000 pairs)",
    note="24 rules have 1, 2, 4 or 8 shadow sets each.",
    x_axis="share of the 192 shadow sets",
)
SAMPLES_PER_SET = Study(
    name="samples_per_set",
    title="Lines per shadow set",
    question="How many lines must a shadow set have?",
    training=FUNCTIONAL,
    main="samples_256",
    cells=tuple(
        Cell(f"samples_{n}", f"{n:,} lines", world={"samples_per_set": n}, x=f"{n:,}") for n in (16, 64, 256, 1024)
    ),
    paper="the paper's Figure 5 (rises up to 1,024 samples)",
    x_axis="lines per shadow set",
)
NUM_SNAPSHOTS = Study(
    name="num_snapshots",
    title="Snapshots per run",
    question="How many updates of one run must a store keep, if runs are what costs?",
    training=FUNCTIONAL,
    main="snapshots_4",
    cells=tuple(
        Cell(f"snapshots_{n}", f"the last {n}" if n > 1 else "the last alone", world={"num_snapshots": n}, x=str(n))
        for n in (1, 2, 4, 8)
    ),
    paper="the paper keeps those of the last 200 steps",
    note="Every cell has the same runs and as many training steps; a store grows with its snapshots.",
    x_axis="updates kept of a run, its last steps",
)
NUM_TASKS = Study(
    name="num_tasks",
    title="Number of different tasks",
    question="With equally many shadow sets, how many different rules must they be of, for rules never seen?",
    training=FUNCTIONAL,
    main="rules_108",
    clients=Clients(num_seen=9),
    cells=tuple(
        Cell(f"rules_{n}", f"{n} rules", world={"num_rules": n, "runs_per_rule": 432 // n}, x=str(n))
        for n in (9, 27, 54, 108)
    ),
    note="432 shadow sets in every cell; the seen clients' rules have shadow sets in all of them.",
    x_axis="different rules among 432 shadow sets",
)
MODEL_SCALES = Study(
    name="model_scales",
    title="Model scales",
    question="Does a larger source, or a larger target, make a better translator?",
    training=FUNCTIONAL,
    main="source_to_target",
    clients=Clients(num_seen=6),
    cells=tuple(
        Cell(
            f"{source}_to_{target}",
            f"{source.replace('_', ' ')} → {target.replace('_', ' ')}",
            world={"source": source, "target": target},
            x=source.replace("_", " "),
            series=target.replace("_", " "),
        )
        for target in ("target", "target_large")
        for source in ("source_small", "source", "source_large")
    ),
    paper="the paper's Table 2 (63 to 68 % on AQuA, whatever the source)",
    note=(
        "The models besides the embedded pair are pretrained by the study; pretraining.json beside each says what it "
        "can do. Every pair has its own clients and ceilings."
    ),
    x_axis="source model",
)
OBJECTIVE = Study(
    name="objective",
    title="Objective and standardisation",
    question="What do the objective and the standardisation of tokens each do?",
    training=FUNCTIONAL,
    main="functional_standardised",
    world=PAIRED,
    cells=(
        Cell("functional_standardised", "Functional, standardised tokens"),
        Cell(
            "functional_raw",
            "Functional, raw tokens",
            training={"standardise": False, "input_noise": 0.0, "whiten": False},
        ),
        Cell("parameter_standardised", "Parameter, standardised tokens", training=PARAMETER),
        Cell(
            "parameter_raw",
            "Parameter, raw tokens (the paper)",
            training={**PARAMETER, "standardise": False, "input_noise": 0.0},
        ),
    ),
    note="Raw tokens get no input noise, whose unit is the standard deviation of each tensor.",
)
DECODING = Study(
    name="decoding",
    title="Decoding mode and linear path",
    question="What do autoregressive decoding, the Transformer and the linear path each bring?",
    training=FUNCTIONAL,
    cells=(
        Cell("parallel", "Parallel, with linear path"),
        Cell("parallel_random_start", "Parallel, linear path begun at random", training={"whiten": False}),
        Cell("parallel_positions", "Parallel, with block positions", training={"block_positions": True}),
        Cell("autoregressive", "Autoregressive, with linear path", training={"decoding": "autoregressive"}),
        Cell("linear_alone", "Linear path alone", training={"has_transformer": False}),
        Cell("parallel_alone", "Parallel, no linear path", training={"linear_rank": 0}),
        Cell(
            "autoregressive_alone",
            "Autoregressive, no linear path",
            training={"decoding": "autoregressive", "linear_rank": 0},
        ),
    ),
)
INPUT_NOISE_DP = Study(
    name="input_noise_dp",
    title="Noise on the client's update",
    question="How much Gaussian noise, as differential privacy adds, may a client's update carry?",
    training=FUNCTIONAL,
    main="trained_0_5_noise_0",
    cells=tuple(
        Cell(
            f"trained_{trained}_noise_{noise}".replace(".", "_"),
            f"Trained with noise {trained}, client noise {noise}",
            training={"input_noise": float(trained)},
            client_noise=float(noise),
            x=noise,
            series=f"trained with noise {trained}",
        )
        for trained in ("0.25", "0.5", "1.0")
        for noise in ("0", "0.25", "0.5", "1", "2")
    ),
    paper="the paper's DP results (DROP at ε = 0.1: 62.35 while the small model falls to 44.70)",
    note=(
        "Noise is added to the finished update, in units of the shadow sets' standard deviation per tensor; this is no "
        "accounting of a privacy budget. Cells of one training share their translator."
    ),
    x_axis="standard deviation of the noise on the client's update",
)
ABLATIONS = (
    PARTITIONS,
    NUM_PAIRS,
    SAMPLES_PER_SET,
    NUM_SNAPSHOTS,
    NUM_TASKS,
    MODEL_SCALES,
    OBJECTIVE,
    DECODING,
    INPUT_NOISE_DP,
)
