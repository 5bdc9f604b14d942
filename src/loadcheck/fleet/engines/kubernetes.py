"""Kubernetes: an indexed Job for each card, each index a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.fleet.engines import Files, node_command
from loadcheck.fleet.engines.written import yaml_text
from loadcheck.fleet.plan import CPU, FleetPlan, PlannedNode
from loadcheck.fleet.spec import Kubernetes
from loadcheck.specs.files import validate
from loadcheck.specs.gpu import load_gpus

FILE = "job.yaml"
HOME = "/home/loadcheck"
RESULTS = f"{HOME}/runs"
PRODUCT = "nvidia.com/gpu.product"
"""The label of NVIDIA's GPU feature discovery: the device name, with dashes for blanks (k8s-device-plugin, internal/lm/resource.go)."""
INDEX = "batch.kubernetes.io/job-completion-index"
MOUNTS = {"shm": "/dev/shm", "tmp": "/tmp", "home": HOME, "results": RESULTS}  # noqa: S108: of a container of its own
"""The image's root is read-only, as in docker-compose.yml."""
GRACE_S = 600
"""How long to wait beyond a Job's own deadline, for an autoscaler to add machines."""
MAX_NAME = 63
"""The longest DNS label (RFC 1123), as an indexed Job uses its pods' names as host names."""
USER = 1000
"""The image's user id."""


def files(plan: FleetPlan) -> Files:
    options = validate(Kubernetes, plan.options, "fleet.json")
    _require_short(plan)
    jobs = [_job(plan, options, unit, nodes) for unit, nodes in plan.units().items()]
    comment = f"{plan.name}: kubectl apply -f {FILE}; what to gather is in the claim {options.results_claim}"
    return {FILE: yaml_text(*jobs, comment=comment)}


def _require_short(plan: FleetPlan) -> None:
    """BadInput if a pod's name, JOB-INDEX, would be too long for a host name."""
    long = [unit for unit, nodes in plan.units().items() if len(f"{plan.name}-{unit}-{len(nodes) - 1}") > MAX_NAME]
    if long:
        what = f"the pods of {long[0]} would have names of more than {MAX_NAME} characters"
        raise BadInput(Problem("FLEET.toml", what, "give the fleet a shorter one", "name"))


def start(plan: FleetPlan) -> list[list[str]]:
    """Apply the Jobs, and wait until each is complete or has failed; one kubectl wait can only wait for one of the two."""
    options = validate(Kubernetes, plan.options, "fleet.json")
    seconds = plan.minutes * 60 + GRACE_S
    waits = [
        " & ".join(f"kubectl wait --namespace {options.namespace} --for=condition={condition} --timeout={seconds}s job/{plan.name}-{unit}"
                   for condition in ("complete", "failed"))
        for unit in plan.units()
    ]  # fmt: skip
    return [["kubectl", "apply", "-f", FILE], *(["bash", "-c", f"{wait} & wait -n; kill $(jobs -p)"] for wait in waits)]


def stop(_: FleetPlan) -> list[list[str]]:
    return [["kubectl", "delete", "--ignore-not-found", "--cascade=foreground", "-f", FILE]]


def _job(plan: FleetPlan, options: Kubernetes, unit: str, nodes: Sequence[PlannedNode]) -> dict[str, Any]:
    queue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    labels = {"app.kubernetes.io/name": "loadcheck", "app.kubernetes.io/instance": plan.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{plan.name}-{unit}", "namespace": options.namespace, "labels": labels | queue},
        "spec": {
            **({"suspend": True} if options.queue else {}),  # Kueue starts it when there is room
            "completionMode": "Indexed",
            "completions": len(nodes),
            "parallelism": len(nodes),
            "backoffLimitPerIndex": plan.retries,
            # loadcheck's own exit codes are final; only a lost pod is tried again.
            "podFailurePolicy": {
                "rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1, 2, 3]}}]
            },
            "activeDeadlineSeconds": plan.minutes * 60,
            "template": {"metadata": {"labels": labels}, "spec": _pod(plan, options, unit, nodes[0])},
        },
    }


def _pod(plan: FleetPlan, options: Kubernetes, unit: str, node: PlannedNode) -> dict[str, Any]:
    named: dict[str, Any] = {}
    if options.runtime_class:
        named["runtimeClassName"] = options.runtime_class
    if options.pull_secret:
        named["imagePullSecrets"] = [{"name": options.pull_secret}]
    if placed := _placed(options, node):
        named["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": placed}]}}}  # fmt: skip
    taints = (*(() if node.card == CPU else ("nvidia.com/gpu",)), *options.tolerations)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        **named,
        "tolerations": [{"key": key, "operator": "Exists"} for key in taints],
        "containers": [_container(plan, options, unit, node)],
        "volumes": _volumes(options),
    }  # fmt: skip


def _placed(options: Kubernetes, node: PlannedNode) -> list[dict[str, Any]]:
    """Node selector terms for the machines with this card's label, or for the requested host."""
    found = []
    if node.card != CPU:
        names = options.products.get(node.card) or tuple(
            name.replace(" ", "-") for name in load_gpus()[node.card].names
        )
        found.append({"key": PRODUCT, "operator": "In", "values": list(names)})
    if node.host:
        found.append({"key": "kubernetes.io/hostname", "operator": "In", "values": [node.host]})
    return found


def _container(plan: FleetPlan, options: Kubernetes, unit: str, node: PlannedNode) -> dict[str, Any]:
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    secret = {"name": "token", "mountPath": "/run/secrets/hf_token", "subPath": "token", "readOnly": True}
    gpu = {} if node.card == CPU else {"nvidia.com/gpu": 1}
    return {
        "name": "loadcheck",
        "image": plan.image,
        "args": node_command(plan, RESULTS),
        "env": [
            {"name": "LOADCHECK_INDEX", "valueFrom": index},
            {"name": "LOADCHECK_NODE", "value": f"{unit}-$(LOADCHECK_INDEX)"},
            {"name": "LOADCHECK_IMAGE", "value": plan.image},
            {"name": "LOADCHECK_FLEET", "value": plan.identity},
        ],
        "resources": {
            "requests": {"cpu": str(options.cpus), "memory": f"{options.ram_gib}Gi"},
            "limits": {"memory": f"{options.ram_gib}Gi", **gpu},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in MOUNTS.items()] + ([secret] if options.token_secret else []),
    }  # fmt: skip


def _volumes(options: Kubernetes) -> list[dict[str, Any]]:
    """As in docker-compose.yml, /dev/shm is larger than a pod's default of 64 MiB; what is used of it counts as the pod's memory."""
    token = [{"name": "token", "secret": {"secretName": options.token_secret, "defaultMode": 0o440}}]
    return [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{options.shm_gib}Gi"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "home", "emptyDir": {}},
        {"name": "results", "persistentVolumeClaim": {"claimName": options.results_claim}},
        *(token if options.token_secret else []),
    ]
