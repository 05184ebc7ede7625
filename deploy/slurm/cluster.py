"""A Dask cluster of SLURM jobs, for as long as a command runs.

::

    python deploy/slurm/cluster.py --jobs 4 -- seamline segment SCENE --model MODEL --out DIR --cluster {address}

The scheduler runs here, the workers in jobs as ``jobqueue.slurm`` of Dask's configuration says (``jobqueue.yaml``). A
job that ends, by its workers' lifetime, its walltime or a node's failure, is followed by another. ``{address}`` in the
command is the scheduler's, and the exit code is the command's. Without a command the address is printed, and the
cluster stays until it is interrupted. TLS is used where Dask's configuration names
certificates (``deploy/certificates``).
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import time
from itertools import count

import dask
from distributed.core import Status
from distributed.security import Security

try:
    from dask_jobqueue import SLURMCluster
    from dask_jobqueue.slurm import SLURMJob
except ModuleNotFoundError as error:
    sys.exit(
        f"cluster: got no {error.name}, expected dask-jobqueue; pip install dask-jobqueue where jobs are submitted"
    )

LOOK_EVERY = 10
"""Seconds between two looks at the queue."""


class Job(SLURMJob):
    """A job that says when it is closed: Dask looks, also at one that SLURM refused."""

    async def close(self) -> None:
        """Cancel it."""
        await super().close()
        self.status = Status.closed


def site(name: str) -> list[str]:
    """What the site's configuration of jobs says, such as ``job-extra-directives``."""
    return list(dask.config.get(f"jobqueue.slurm.{name}"))


def scheduler(gpu: bool) -> SLURMCluster:
    """The scheduler, which knows what a job is; there are none yet."""
    options = {}
    if gpu:  # added to what the configuration says
        options = {
            "processes": 1,
            "cores": 3,
            "job_extra_directives": [*site("job-extra-directives"), "--gpus=1"],
            "worker_extra_args": [*site("worker-extra-args"), "--resources", "GPU=1"],
        }
    # Dask would cancel the job that got the name of one whose workers left, if its own are not there yet.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
    secure = dask.config.get("distributed.comm.tls.ca-file") is not None
    return SLURMCluster(job_cls=Job, security=Security() if secure else None, silence_logs=logging.ERROR, **options)


def submit(cluster: SLURMCluster, jobs: int) -> None:
    """Submit so many jobs and wait for the first worker. Ends the program where SLURM refuses a job."""
    cluster.scale(jobs=jobs)
    for second in count(1):
        time.sleep(1)
        if any(job.job_id is None for job in cluster.workers.values()):
            sys.exit("cluster: SLURM refused a job, see above; correct jobqueue.slurm in Dask's configuration")
        if cluster.scheduler.workers:
            return
        if second % LOOK_EVERY == 0:
            replace_ended(cluster, jobs)


def replace_ended(cluster: SLURMCluster, jobs: int) -> None:
    """Submit a job for each one that has ended. While SLURM does not answer nothing happens."""
    ours = {name: job.job_id for name, job in cluster.workers.items()}  # before SLURM is asked: others may be coming
    asked = subprocess.run(["squeue", "--noheader", "--me", "--format=%A"], capture_output=True, text=True)
    there = set(asked.stdout.split())
    ended = [name for name, number in ours.items() if number not in there]
    if ended and asked.returncode == 0:
        cluster.sync(cluster.scale_down, ended)
        cluster.scale(jobs=jobs)


def run(cluster: SLURMCluster, jobs: int, command: list[str]) -> int:
    """The command's exit code; meanwhile there are so many jobs."""
    process = subprocess.Popen([word.replace("{address}", cluster.scheduler_address) for word in command])
    try:
        while True:
            try:
                return process.wait(LOOK_EVERY)
            except subprocess.TimeoutExpired:
                replace_ended(cluster, jobs)
    except KeyboardInterrupt:
        return process.wait()  # it heard Ctrl-C, too
    finally:
        process.terminate()


def main() -> int:
    """Read the command line, start, run, stop."""
    parser = argparse.ArgumentParser(description="Run a command with a Dask cluster of SLURM jobs.")
    parser.add_argument("--jobs", type=int, required=True, help="how many jobs there should be at any time")
    parser.add_argument("--gpu", action="store_true", help="jobs of one process with one GPU")
    parser.add_argument("command", nargs="*", help="after --; {address} stands for the scheduler's")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    if shutil.which("sbatch") is None:
        sys.exit("cluster: got no sbatch, expected SLURM's commands; start this where jobs are submitted")
    with scheduler(options.gpu) as cluster:
        submit(cluster, options.jobs)
        if options.command:
            return run(cluster, options.jobs, options.command)
        print(cluster.scheduler_address, flush=True)
        while True:
            time.sleep(LOOK_EVERY)
            replace_ended(cluster, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
