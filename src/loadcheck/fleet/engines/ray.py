"""Ray: a task for each GPU of an existing cluster, placed by the kind of card."""

from __future__ import annotations

import re
import sys
from pprint import pformat

from loadcheck.fleet.engines import Files, node_command, require_absolute
from loadcheck.fleet.plan import CPU, FleetPlan
from loadcheck.fleet.spec import Ray
from loadcheck.specs.files import validate
from loadcheck.specs.gpu import load_gpus

FILE = "ray_fleet.py"
SCRIPT = '''\
"""{name}: python {file}, on a machine of the cluster, or with `ray job submit`. Every machine has loadcheck, and sees the results."""

import os
import subprocess
import sys

import ray

NODES = {nodes}
COMMAND = {command!r}


@ray.remote(num_cpus=1, max_retries={retries})
def load(name: str) -> int:
    """The exit code of one load. The GPU that Ray chose is in CUDA_VISIBLE_DEVICES, and `fleet node` pins it.

    Of which image the machine is, its own LOADCHECK_IMAGE says.
    """
    environ = {{**os.environ, "LOADCHECK_NODE": name, "LOADCHECK_FLEET": {fleet!r}}}
    return subprocess.run([sys.executable, "-m", "loadcheck", *COMMAND], env=environ, check=False).returncode


def main() -> int:
    ray.init(address=os.environ.get("RAY_ADDRESS", {address!r}), log_to_driver=True)
    waiting = {{load.options(**node["options"]).remote(node["name"]): node["name"] for node in NODES}}
    codes = []
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        name = waiting.pop(done)
        try:
            codes.append(ray.get(done))
            print(f"{{name}}: exit code {{codes[-1]}}, {{len(waiting)}} to come", flush=True)
        except ray.exceptions.RayError as error:
            codes.append(1)
            print(f"{{name}}: lost: {{type(error).__name__}}", flush=True)
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main())
'''


def files(plan: FleetPlan) -> Files:
    require_absolute(plan)
    options = validate(Ray, plan.options, "fleet.json")
    nodes = [{"name": node.node, "options": _options(node.card, options)} for node in plan.nodes]
    return {
        FILE: SCRIPT.format(
            name=plan.name, fleet=plan.identity, file=FILE, nodes=pformat(nodes, width=120, sort_dicts=False), command=node_command(plan, plan.results),
            address=options.address, retries=plan.retries,
        )
    }  # fmt: skip


def start(_: FleetPlan) -> list[list[str]]:
    return [[sys.executable, FILE]]


def stop(_: FleetPlan) -> list[list[str]]:
    """The tasks end with the script that started them."""
    return []


def _options(card: str, options: Ray) -> dict[str, object]:
    if card == CPU:
        return {}
    named = options.accelerator_types.get(card) or accelerator_type(load_gpus()[card].names[0])
    return {"num_gpus": 1, "accelerator_type": named}


def accelerator_type(device_name: str) -> str:
    """Ray's name of a card, as the stack's version of Ray derives it: the capitals and digits at the beginning of its second word.

    ray/_private/accelerators/nvidia_gpu.py:15 of 2.42.1: "Tesla T4" is T4, "NVIDIA A100-SXM4-40GB" A100, and "NVIDIA GeForce RTX 4090" G.
    Newer versions name cards of the last kind otherwise (`accelerator_types`).
    """
    maker, *words = device_name.split()
    match = re.match(r"[A-Z0-9]+", words[0] if words else maker)
    return match.group() if match else device_name
