"""Slurm: a job array for each card, each task a node."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from loadcheck.fleet.engines import Files, node_command, require_absolute
from loadcheck.fleet.plan import CPU, FleetPlan, PlannedNode
from loadcheck.fleet.spec import Slurm
from loadcheck.specs.files import validate

RESULTS = "/home/loadcheck/runs"
"""Where the bundle's `run` binds RUNS."""

# The bundle's `run` passes on the node and the digest, pyxis the whole environment. Without cgroups the GPU is in CUDA_VISIBLE_DEVICES.
APPTAINER = """\
export APPTAINERENV_CUDA_VISIBLE_DEVICES="${{CUDA_VISIBLE_DEVICES:-}}"
WEIGHTS="$RUNS/.weights/$LOADCHECK_NODE" exec "$bundle/run" apptainer "$root" {command}
"""
PYXIS = """\
exec srun --container-image="$root" --container-mounts="$RUNS:{results}" --container-writable --no-container-mount-home \\
  --container-env=LOADCHECK_NODE,LOADCHECK_IMAGE,LOADCHECK_FLEET loadcheck {command}
"""
SCRIPT = """\
#!/bin/bash
{head}
set -eu
bundle={bundle} root={root}
export RUNS={runs}
mkdir -p "$RUNS"
export LOADCHECK_NODE={unit}-$SLURM_ARRAY_TASK_ID LOADCHECK_FLEET={fleet}
LOADCHECK_IMAGE=$(cat "$bundle/digest") # what is there, not what was asked for: gather compares the two
export LOADCHECK_IMAGE
{run}"""


def files(plan: FleetPlan) -> Files:
    require_absolute(plan)
    options = validate(Slurm, plan.options, "fleet.json")
    return {f"{unit}.sbatch": _script(plan, options, unit, nodes) for unit, nodes in plan.units().items()}


def start(plan: FleetPlan) -> list[list[str]]:
    """With --wait, sbatch ends when its array has ended."""
    return [["sbatch", "--wait", f"{unit}.sbatch"] for unit in plan.units()]


def stop(plan: FleetPlan) -> list[list[str]]:
    return [["scancel", f"--name={plan.name}-{unit}"] for unit in plan.units()]


def _script(plan: FleetPlan, options: Slurm, unit: str, nodes: Sequence[PlannedNode]) -> str:
    command = shlex.join(node_command(plan, RESULTS))
    run = (APPTAINER if options.container == "apptainer" else PYXIS).format(command=command, results=RESULTS)
    return SCRIPT.format(
        head="\n".join(f"#SBATCH {flag}" for flag in _flags(plan, options, unit, nodes)),
        bundle=shlex.quote(options.bundle),
        root=shlex.quote(options.root),
        runs=shlex.quote(plan.results),
        unit=unit,
        fleet=plan.identity,
        run=run,
    )


def _flags(plan: FleetPlan, options: Slurm, unit: str, nodes: Sequence[PlannedNode]) -> list[str]:
    gres = options.gres if isinstance(options.gres, str) else options.gres.get(nodes[0].card, "gpu:1")
    optional = {
        "partition": options.partition,
        "account": options.account,
        "gres": None if nodes[0].card == CPU else gres,
        "nodelist": nodes[0].host,
    }
    return [
        f"--job-name={plan.name}-{unit}",
        f"--array=0-{len(nodes) - 1}",
        "--ntasks=1",
        f"--cpus-per-task={options.cpus}",
        f"--mem={options.ram_gib}G",
        f"--time={plan.minutes}",
        *(f"--{name}={value}" for name, value in optional.items() if value),
        "--requeue" if plan.retries else "--no-requeue",
        f"--output={plan.name}-{unit}-%a.out",
    ]
