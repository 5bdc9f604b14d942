"""What a load in the bundle's chroot can do to the machine, as root, in a root made of this machine's programs."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "image"
PROBE = """#!/bin/bash
grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status
for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled; do
  if [ -e $file ] && (exec 3>>$file) 2>/dev/null; then echo "open: $file"; fi
done
for device in /dev/* /dev/*/*; do if [ ! -L $device ] && { [ -b $device ] || [ -c $device ]; }; then echo "device: $device"; fi; done
mknod /tmp/disk b 8 0 2>/dev/null && echo mknod
mkdir -p /tmp/mounted && mount -t tmpfs tmpfs /tmp/mounted 2>/dev/null && echo mounted
chroot / true 2>/dev/null && echo chroot
echo "shm: $(df --output=size -B1 /dev/shm | tail -1)"
echo "ipc: $(readlink /proc/self/ns/ipc)"
[ "$(head -c 4 /dev/urandom | wc -c)" = 4 ] && echo random
echo kept >/home/loadcheck/runs/kept
echo "said: $*"
"""
FOLDERS = (
    "usr",
    "bin",
    "lib",
    "lib64",
    "sbin",
    "etc",
    "opt/loadcheck",
    "home/loadcheck/runs",
    "home/loadcheck/weights",
    "tmp",
)
LENT = {"null", "zero", "full", "random", "urandom", "tty", "dxg", "ptmx"}


def _can_mount() -> bool:
    if os.getuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "chroot"))):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _can_mount(), reason="the chroot needs root that may mount")


@pytest.fixture
def probe_output(tmp_path: Path) -> list[str]:
    """Output of a load that inspects its surroundings, by line."""
    root, here, programs = tmp_path / "root", tmp_path / "bundle", tmp_path / "programs"
    for folder in (here, programs, *(root / name for name in FOLDERS)):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPTS / "bundle-run", here / "run")
    (here / "digest").write_text("sha256:0\n")
    (programs / "loadcheck").write_text(PROBE)
    (programs / "loadcheck").chmod(0o755)
    lent = [name for name in FOLDERS[:5] if Path("/", name).is_dir()]
    mounts = (
        "".join(f"mount --bind /{name} {root}/{name}; " for name in lent)
        + f"mount --bind {programs} {root}/usr/local/bin; "
    )
    script = f"set -e; {mounts} {here}/run chroot {root} load --json"
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "kept").read_text() == "kept\n"
    return done.stdout.splitlines()


def test_a_chroot_cannot_change_the_kernel(probe_output: list[str]):
    """No kernel setting opens for writing, although root owns it; nothing can be mounted, created or left."""
    assert [line for line in probe_output if line.startswith("open: ") or line in ("mknod", "mounted", "chroot")] == []
    assert probe_output[-1] == "said: load --json" and "random" in probe_output


def test_a_chroot_has_only_three_capabilities(probe_output: list[str]):
    """The capabilities are CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER, which it needs to write to RUNS and WEIGHTS, and no others."""
    words = dict(line.split(":\t") for line in probe_output if ":\t" in line)
    assert int(words["CapBnd"], 16) == int(words["CapEff"], 16) == 0b1011
    assert words["NoNewPrivs"] == "1"


def test_a_chroot_has_only_a_loads_devices(probe_output: list[str]):
    """No disk, no memory and no console; NVIDIA's devices are passed through."""
    names = {line.removeprefix("device: /dev/") for line in probe_output if line.startswith("device: ")}
    nvidia = {
        str(path.relative_to("/dev")) for path in Path("/dev").glob("nvidia*") if stat.S_ISCHR(path.stat().st_mode)
    }
    assert {"null", "urandom"} <= names
    assert {name for name in names - LENT - nvidia if not name.startswith(("pts/", "nvidia-caps/"))} == set()


def test_a_chroot_shares_no_memory(probe_output: list[str]):
    """/dev/shm is its own, with 1 GiB, and so is System V's shared memory."""
    assert f"shm: {1 << 30}" in [line.replace("shm:  ", "shm: ") for line in probe_output]
    (own,) = (line for line in probe_output if line.startswith("ipc: "))
    assert own != f"ipc: {Path('/proc/self/ns/ipc').readlink()}"
