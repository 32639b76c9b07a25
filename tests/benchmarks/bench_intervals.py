"""How often do 95 % intervals over tasks, and over tasks and examples, hold the truth? Prints a table.

    python tests/benchmarks/bench_intervals.py

Two methods answer the same examples; a task's lead is drawn around 0.1, and the truth asked for is the mean lead over
all tasks that could be drawn.
"""

from __future__ import annotations

import numpy as np

from gradtx_hf.evaluation.resampling import draw_example_means, draw_means, interval


LEAD = 0.1
NUM_REPORTS = 300
SETTINGS = ((3, 128, 0.0), (3, 128, 0.1), (3, 128, 0.3), (5, 128, 0.1), (10, 128, 0.1), (10, 16, 0.1), (24, 128, 0.1))


def main() -> None:
    generator = np.random.default_rng(0)
    print("tasks  examples  spread of leads  held: tasks alone  held: tasks and examples")
    for num_tasks, num_examples, spread in SETTINGS:
        held = np.zeros(2)
        for seed in range(NUM_REPORTS):
            leads = np.clip(generator.normal(LEAD, spread, num_tasks), -0.5, 0.5)
            scores = [
                (generator.random((num_examples, 2)) < [0.5 + lead / 2, 0.5 - lead / 2]).astype(float) for lead in leads
            ]
            tasks = list(range(num_tasks))
            over_tasks = draw_means(np.stack([score.mean(0) for score in scores]), tasks, seed=seed)
            assert over_tasks is not None
            over_both = draw_example_means(scores, tasks, tasks, seed=seed)
            for column, draws in enumerate((over_tasks, over_both)):
                low, high = interval(draws[:, 0] - draws[:, 1])
                held[column] += low <= LEAD <= high
        shares = held / NUM_REPORTS
        print(f"{num_tasks:5}  {num_examples:8}  {spread:15}  {shares[0]:17.3f}  {shares[1]:24.3f}")


if __name__ == "__main__":
    main()
