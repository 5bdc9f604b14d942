"""SkyPilot: a task for each card, with each of its machines a node; all machines are terminated when they are done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.fleet.engines import Files, node_command
from loadcheck.fleet.engines.written import yaml_text
from loadcheck.fleet.plan import CPU, FleetPlan, PlannedNode
from loadcheck.fleet.spec import Skypilot
from loadcheck.specs.files import validate

ACCELERATORS = {"V100-16GB": "V100", "A100-40GB": "A100", "RTX3090Ti": "RTX3090-Ti", "RTX6000Ada": "RTX6000-Ada"}
"""SkyPilot's names that differ from ours (sky/utils/gpu_names.py and sky/catalog of 0.14.1: A100 is the one with 40 GB, V100 that with 16)."""
IDLE_MINUTES = 5
RESULTS, BUCKET = "/var/tmp/fleet", "/bucket"  # noqa: S108: of a machine of its own
SCHEMES = ("s3://", "gs://", "r2://", "cos://", "nebius://", "https://")

# A mounted bucket supports only writing whole new files, so a run is copied into it once it is sealed.
# A failing machine ends the others of its task, so a load's exit code is only printed; gather judges the load.
HEAD = """\
export LOADCHECK_NODE={unit}-${{SKYPILOT_NODE_RANK:-0}}
mkdir -p {results}
"""
TAIL = """\
mkdir -p {bucket} && cp -r --no-preserve=mode {results}/. {bucket}/
"""
IN_IMAGE = """\
loadcheck {command} || echo "loadcheck: exit code $?"
"""
IN_DOCKER = """\
if [ -n "$HF_TOKEN" ]; then
  HF_TOKEN_FILE=$(mktemp) && printf '%s' "$HF_TOKEN" >"$HF_TOKEN_FILE"
fi
sudo docker run --rm {gpus}--shm-size 1g --user "$(id -u):$(id -g)" --read-only --cap-drop ALL --security-opt no-new-privileges \\
  --tmpfs /tmp:exec,mode=1777 --tmpfs /home/loadcheck:exec,mode=1777 --volume loadcheck_weights:/home/loadcheck/weights \\
  --volume {results}:{results} ${{HF_TOKEN_FILE:+--volume "$HF_TOKEN_FILE:/run/secrets/hf_token:ro"}} \\
  --env LOADCHECK_NODE="$LOADCHECK_NODE" --env LOADCHECK_IMAGE="$LOADCHECK_IMAGE" --env LOADCHECK_FLEET="$LOADCHECK_FLEET" \\
  "$LOADCHECK_IMAGE" {command} || echo "loadcheck: exit code $?"
"""


def files(plan: FleetPlan) -> Files:
    """The task files; BadInput if the results would be lost with the machines."""
    if not plan.results.startswith(SCHEMES):
        what = f"{plan.results!r} is on machines that are terminated when they are done"
        raise BadInput(Problem("FLEET.toml", what, "give a bucket, such as s3://mine/fleet", "results"))
    options = validate(Skypilot, plan.options, "fleet.json")
    found = {}
    for unit, nodes in plan.units().items():
        if nodes[0].host:
            what = "SkyPilot finds machines itself, but hosts are given"
            raise BadInput(Problem("FLEET.toml", what, "give a count instead", "nodes"))
        found[f"{unit}.yaml"] = yaml_text(_task(plan, options, unit, nodes), comment=f"sky launch --down {unit}.yaml")
    return found


def start(plan: FleetPlan) -> list[list[str]]:
    """One command per task, one after the other; the machines of a task run at once."""
    return [
        ["sky", "launch", "--yes", "--down", "--idle-minutes-to-autostop", str(IDLE_MINUTES), "--cluster", cluster(plan, unit), f"{unit}.yaml"]
        for unit in plan.units()
    ]  # fmt: skip


def stop(plan: FleetPlan) -> list[list[str]]:
    return [["sky", "down", "--yes", cluster(plan, unit)] for unit in plan.units()]


def cluster(plan: FleetPlan, unit: str) -> str:
    return f"{plan.name}-{unit}"


def accelerator(card: str, options: Skypilot) -> str:
    return options.accelerators.get(card) or ACCELERATORS.get(card, card)


def _task(plan: FleetPlan, options: Skypilot, unit: str, nodes: Sequence[PlannedNode]) -> dict[str, Any]:
    card, in_docker = nodes[0].card, options.runtime == "docker"
    bucket, folder = _bucket(plan.results)
    script = (HEAD + (IN_DOCKER if in_docker else IN_IMAGE) + TAIL).format(
        unit=unit,
        command=shlex.join(node_command(plan, RESULTS)),
        results=RESULTS,
        bucket=f"{BUCKET}/{folder}".rstrip("/"),
        gpus="" if card == CPU else "--gpus all ",
    )
    resources = {
        **({"infra": options.infra} if options.infra else {}),
        **({"cpus": "4+"} if card == CPU else {"accelerators": f"{accelerator(card, options)}:1"}),
        **({} if in_docker else {"image_id": f"docker:{plan.image}"}),
        **({"use_spot": True} if options.use_spot else {}),
        "disk_size": options.disk_gib,
    }
    return {
        "name": f"{plan.name}-{unit}",
        "num_nodes": len(nodes),
        "resources": resources,
        "envs": {"LOADCHECK_IMAGE": plan.image, "LOADCHECK_FLEET": plan.identity, "HF_TOKEN": ""},
        "file_mounts": {BUCKET: {"source": bucket, "mode": "MOUNT"}},
        "run": script,
    }


def _bucket(results: str) -> tuple[str, str]:
    """The bucket, as only a whole bucket can be mounted (sky/data/storage.py of 0.8), and the folder in it; an Azure URL is a bucket."""
    scheme, _, path = results.partition("://")
    name, _, folder = path.partition("/")
    return (results, "") if scheme == "https" else (f"{scheme}://{name}", folder.strip("/"))
