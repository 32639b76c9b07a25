"""Curate on SLURM: one job makes the plan, an array of jobs does a share of its packs each, one writes the manifest.

python examples/farm/slurm_submitit.py CONFIG.yaml --num-shares 8 --partition gpu --gpus 1 --hours 12

All jobs share the configuration's output_dir on a common file system. Run it again after a failure: finished packs are
not done again, and a pack that was stopped goes on from its last checkpoint. Needs: pip install submitit
"""

import argparse
import sys

from submitit import AutoExecutor
from submitit.helpers import CommandFunction


def main() -> None:
    """Submit the three steps, one after the other, and wait for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="configuration of gradtx curate")
    parser.add_argument("--num-shares", type=int, required=True, help="jobs that fine-tune")
    parser.add_argument("--partition", help="SLURM partition")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each job")
    parser.add_argument("--hours", type=float, default=12, help="most hours of each job")
    parser.add_argument("--logs", default="slurm-logs", help="folder of the jobs' logs")
    parser.add_argument("--cluster", default="slurm", choices=["slurm", "local"], help="local: to try it here")
    arguments = parser.parse_args()

    executor = AutoExecutor(folder=arguments.logs, cluster=arguments.cluster)
    executor.update_parameters(
        name="gradtx-curate",
        timeout_min=round(60 * arguments.hours),
        gpus_per_node=arguments.gpus,
        cpus_per_task=1,
        slurm_partition=arguments.partition,
    )
    curate = [sys.executable, "-m", "gradtx_hf.cli.main", "curate", "--config", arguments.config]

    executor.submit(CommandFunction([*curate, "--plan-only", "true"])).result()
    shares = [f"{i}/{arguments.num_shares}" for i in range(arguments.num_shares)]
    for job in executor.map_array(CommandFunction([*curate, "--share"]), shares):
        job.result()
    print(executor.submit(CommandFunction(curate)).result())


if __name__ == "__main__":
    main()
