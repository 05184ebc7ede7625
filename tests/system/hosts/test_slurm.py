"""Seamline on SLURM, which is started for the test: jobs whose workers leave in mid-run and are followed by others."""

from __future__ import annotations

import os
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import dask
import pytest

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.planning import Plan
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.execution.run_chunks import Totals
from tests.support.processes import find_free_port, wait_until
from tests.support.run_folders import read_rasters
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

DEPLOY = Path(__file__).parents[3] / "deploy"
PATIENCE = 240
PLAN = {"window": 192, "halo": 48, "overlap": 32, "chunk_tiles": 1}
SITE = {
    "INTERFACE": "lo",
    "JOB_CPU": "1",
    "PROCESSES": "1",
    "CORES": "3",
    "MEMORY": "2GB",
    "WORKER_EXTRA_ARGS": '["--lifetime", "20s", "--lifetime-stagger", "5s"]',
}
"""How this machine is another one than ``jobqueue.yaml`` is written for."""


def configuration(folder: Path) -> str:
    """One node with more cores than it may have, and two GPUs that are none."""
    host = socket.gethostname().split(".")[0]
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null,/dev/zero\n")
    return f"""\
ClusterName=seamline
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={find_free_port()}
SlurmdPort={find_free_port()}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
SelectType=select/cons_tres
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES
"""


@contextmanager
def daemon(folder: Path, *command: object, user: str = "root") -> Iterator[None]:
    """A program in the foreground, ended at the end."""
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command)], stdout=log, stderr=log, user=user, group=user, env={**os.environ, **at(folder)}
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def at(folder: Path) -> dict[str, str]:
    return {"SLURM_CONF": str(folder / "slurm.conf")}


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of somebody who may submit jobs."""
    missing = [name for name in ("munged", "slurmctld", "slurmd") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}; .ci/readers installs it")
    if os.geteuid():
        pytest.skip("SLURM's daemons need root")
    folder = Path(f"/run/seamline-{os.getpid()}")  # munge wants folders above its socket that only root may change
    munge = folder / "munge"
    munge.mkdir(parents=True)
    try:
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        for path in (munge / "key", munge):
            shutil.chown(path, "munge", "munge")
        (folder / "slurm.conf").write_text(configuration(folder))
        files = [f"--{name}-file={munge / name}" for name in ("key", "log", "pid", "seed")]
        with ExitStack() as stack:
            daemons = partial(daemon, folder)
            stack.enter_context(daemons("munged", "--foreground", f"--socket={munge / 'socket'}", *files, user="munge"))
            stack.enter_context(daemons("slurmctld", "-D"))
            stack.enter_context(daemons("slurmd", "-D"))
            wait_until(lambda: "idle" in asked(at(folder), "sinfo", "--noheader"), "a node")
            site = {f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in SITE.items()}
            yield {**os.environ, **at(folder), **site, "DASK_CONFIG": str(DEPLOY / "slurm" / "jobqueue.yaml")}
            wait_until(lambda: not asked(at(folder), "squeue", "--noheader"), "an empty queue")
    finally:
        shutil.rmtree(folder)


def asked(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True).stdout


def test_jobs_that_leave_at_their_lifetime_are_replaced_and_change_nothing(
    slurm: dict[str, str], small_model: Model, cluster: Callable[[int], str], tmp_path: Path
) -> None:
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 512, 512), names=BAND_NAMES, nodata=0)
    subprocess.run([DEPLOY / "certificates", tmp_path / "tls", "127.0.0.1"], check=True, capture_output=True)
    tls = dict(line.split("=", 1) for line in (tmp_path / "tls" / "dask.env").read_text().splitlines())
    environment = slurm | tls

    def segmented(out: str, address: str, watcher: RunObserver) -> dict[str, bytes]:
        options = SegmentOptions(**PLAN, precision="fp32", device="cpu", engine="torch", cluster=address)
        return read_rasters(segment(source, small_model.folder, tmp_path / out, options, watcher).folder)

    def until_replaced(totals: Totals, plan: Plan) -> None:
        """In mid-run, wait for as many new workers as there were at the start."""
        if totals.chunks_done == 8:
            wait_until(
                lambda: sum("Registered to" in job.read_text() for job in tmp_path.glob("slurm-*.out")) >= 4, "jobs"
            )

    whole = segmented("whole", cluster(2), RunObserver())
    keep = "echo {address} > address.part; mv address.part address; while [ ! -e done ]; do sleep 0.1; done; exit 7"
    command = [sys.executable, DEPLOY / "slurm" / "cluster.py", "--jobs", "2", "--gpu", "--", "bash", "-c", keep]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_until(lambda: (tmp_path / "address").exists() or process.poll() is not None, "a cluster")
        with dask.config.set({name.removeprefix("DASK_").lower().replace("__", "."): tls[name] for name in tls}):
            address = (tmp_path / "address").read_text().strip()
            replaced = segmented("replaced", address, RunObserver(progress=until_replaced))
        (tmp_path / "done").touch()
        assert process.wait(PATIENCE) == 7
    finally:
        process.terminate()
        process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert replaced == whole


def test_without_dask_jobqueue_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match=r"cluster: got no dask_jobqueue, expected dask-jobqueue; pip install"):
        runpy.run_path(str(DEPLOY / "slurm" / "cluster.py"))


def test_a_job_that_slurm_refuses_ends_the_cluster(slurm: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, DEPLOY / "slurm" / "cluster.py", "--jobs", "1", "--", "true"]
    refused = slurm | {"DASK_JOBQUEUE__SLURM__QUEUE": "nowhere"}
    done = subprocess.run(command, env=refused, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "invalid partition specified: nowhere" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("cluster: SLURM refused a job")
