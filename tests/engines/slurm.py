"""Slurm on this machine: a controller and one node on loopback, in a folder, with their own keys."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from tests.ports import free_port

NEEDS = ("slurmctld", "slurmd", "munged", "sbatch")
PARTITION = "gpu"
CONF = """\
ClusterName=loadcheck
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:t4:3,gpu:a100:1 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
GPUS = (("t4", "/dev/null"), ("t4", "/dev/zero"), ("t4", "/dev/full"), ("a100", "/dev/random"))
"""Slurm needs only the device file of a GPU."""
START_S = 120.0


def unavailable_reason() -> str:
    """Why a cluster cannot run here; empty if it can."""
    absent = [name for name in NEEDS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} is not installed (apt-get install slurm-wlm)"
    return "" if os.geteuid() == 0 else "Slurm's daemons run as root"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster of one idle node: the environment in which Slurm's commands find it. No process outlives the call."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
        (folder / name).chmod(0o700)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(host=host, ports=(port := free_port(), free_port(port)), folder=folder, partition=PARTITION)
    )
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={host} Name=gpu Type={card} File={file}\n" for card, file in GPUS)
    )
    environ = {**os.environ, "PATH": _path(), "SLURM_CONF": str(conf)}
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge = [
        *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"),
        *(f"--{name}-file={folder}/munge/{name}" for name in ("log", "pid", "seed")),
    ]
    with ExitStack() as stack:
        stack.enter_context(_daemon(munge, environ, folder / "munge.out"))
        _wait_until(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_daemon(["slurmctld", "-D", "-i"], environ, folder / "slurmctld.out"))
        stack.enter_context(_daemon(["slurmd", "-D"], environ, folder / "slurmd.out"))
        _wait_until(lambda: _output(["sinfo", "--noheader", "--format=%T"], environ) == "idle", folder)
        try:
            yield environ
        finally:
            _output(["scancel", "--user=root", "--full"], environ)
            _wait_until(lambda: not _output(["squeue", "--noheader"], environ), folder)


@contextmanager
def _daemon(command: list[str], environ: dict[str, str], out: Path) -> Iterator[None]:
    with out.open("wb") as file:
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        started = [process.pid]
        with suppress(psutil.NoSuchProcess):
            started += [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, 15)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()


def _output(command: list[str], environ: dict[str, str]) -> str:
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout.strip()


def _wait_until(is_so: Callable[[], bool], folder: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(
                "\n".join(file.read_text(errors="replace")[-2000:] for file in sorted(folder.glob("*.out")))
            )
        time.sleep(0.1)
