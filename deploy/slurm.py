"""A sweep on a SLURM cluster: every SLURM job is one worker, and all of them end with the sweep.

    python deploy/slurm.py --jobs 20 --partition short train 'iteration_*' --seeds 0-9
    python deploy/slurm.py --jobs 20 sweep iteration_10_one_cycle --set learning_rate=0.1,0.3 --seeds 0-9

Start it where jobs may be submitted from; what it does not know goes to `mnist-lib`. Without a command, it trains.
"""

import argparse
import sys

from dask_jobqueue import SLURMCluster

from mnist_lib import cli


def main() -> int:
    parser = argparse.ArgumentParser(description="mnist-lib train or sweep, on a SLURM cluster")
    parser.add_argument("--jobs", type=int, default=2, help="how many SLURM jobs, of one run at a time")
    parser.add_argument("--partition", help="where to submit them (default: where the cluster does)")
    parser.add_argument("--walltime", default="04:00:00", help="the longest that a job may take")
    parser.add_argument("--memory", default="3GB", help="of a job")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each job")
    parser.add_argument("--interface", help="the network between the nodes, such as ib0")
    options, command = parser.parse_known_args()
    if command[:1] not in (["train"], ["sweep"]):
        command = ["train", *command]

    cluster = SLURMCluster(
        cores=1,  # and so one thread: a run uses no more
        processes=1,
        memory=options.memory,
        queue=options.partition,
        walltime=options.walltime,
        interface=options.interface,
        job_extra_directives=["--gres=gpu:1"] if options.gpu else [],
        worker_extra_args=["--preload", "mnist_lib.pipeline.cluster"] + ["--resources", "GPU=1"] * options.gpu,
    )
    with cluster:
        # Adaptive, so that a job that ended, at its longest time, say, is replaced as long as there are runs.
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)
        device = ["--device", "cuda"] if options.gpu else []
        return cli.main([*command, *device, "--scheduler", cluster.scheduler_address])


if __name__ == "__main__":
    sys.exit(main())
