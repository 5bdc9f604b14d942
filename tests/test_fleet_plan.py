"""fleet plan: each card is predicted before it is rented, and each engine gets its files."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadcheck import cli
from loadcheck.errors import BadInput
from loadcheck.fleet.engines import engine_of, write_files
from loadcheck.fleet.engines.ray import accelerator_type
from loadcheck.fleet.engines.skypilot import accelerator
from loadcheck.fleet.plan import FleetPlan, read_plan
from loadcheck.fleet.planning import plan_fleet
from loadcheck.fleet.spec import FleetSpec, Skypilot
from loadcheck.runs.origin import lock_sha256
from loadcheck.specs.files import validate
from loadcheck.units import GIB
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

IMAGE = "registry.example/loadcheck@sha256:" + "a" * 64
OPTIONS: dict[str, dict[str, Any]] = {
    "local": {},
    "kubernetes": {
        "results_claim": "fleet",
        "queue": "gpus",
        "token_secret": "hf",
        "pull_secret": "pull",
        "runtime_class": "nvidia",
    },
    "skypilot": {},
    "slurm": {"bundle": "/shared/bundle", "root": "/shared/root", "partition": "gpu", "gres": {"T4": "gpu:t4:1"}},
    "ray": {},
}
RESULTS = {"skypilot": "s3://mine/fleet", "slurm": "/shared/results", "ray": "/shared/results"}


def _spec(table: str, **changes: Any) -> FleetSpec:
    engine = changes.get("engine", table)
    data = {
        "name": "fleet", "engine": engine, "image": IMAGE, "profile": "llama31-8b-instruct-4bit", "results": RESULTS.get(engine, "results"),
        "nodes": [{"card": "T4", "count": 3}, {"card": "A100-40GB"}], table: OPTIONS[table], **changes,
    }  # fmt: skip
    return validate(FleetSpec, data, "FLEET.toml")


def plan_for(engine: str, **changes: Any) -> FleetPlan:
    """The plan of a fleet of three T4 and an A100 for an engine, with changed keys of FLEET.toml."""
    plan = plan_fleet(_spec(engine, **changes)).plan
    assert plan is not None
    return plan


def test_unsuitable_cards_are_refused_before_they_are_rented():
    """Cards are refused by prediction, by what the stack supports and by price; the rest is planned, and the exit code says so."""
    nodes = [
        {"card": "T4", "count": 2, "price_per_hour": 0.4},
        {"card": "RTX5090"},
        {"card": "H100", "price_per_hour": 3.0},
        {"card": "L4"},
    ]
    planned = plan_fleet(_spec("local", nodes=nodes, price_cap_per_hour=1.0))
    assert [(each.card, bool(each.refused)) for each in planned.groups] == [("T4", False), ("RTX5090", True), ("H100", True), ("L4", True)]  # fmt: skip
    words = ("12.0", "3 an hour", "is not stated")
    assert all(word in each.refused for each, word in zip(planned.refused, words, strict=True))
    assert planned.plan is not None and [node.node for node in planned.plan.nodes] == ["t4-0", "t4-1"]
    assert planned.exit_code == 1
    long = plan_fleet(_spec("local", settings={"max_seq_length": 100}))
    assert long.plan is None and "below the number of sequences" in long.groups[0].refused


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("name", "My fleet", "name: must be at most 40 lower-case letters, digits and hyphens"),
        ("results", "my results", "results: must be a word without spaces"),
        ("nodes", [{"card": "T4", "hosts": ["A b"]}], "nodes.0.hosts: must be at most 63 lower-case letters"),
    ],
)
def test_a_name_of_another_form_is_refused_with_its_rule(key: str, value: object, rule: str):
    """The message says in words what a name may contain, not the regular expression."""
    with pytest.raises(BadInput) as error:
        _spec("local", **{key: value})
    assert rule in str(error.value) and "regex" not in str(error.value)


def test_each_node_has_the_price_of_its_group():
    """Two groups with the same card may have two prices: the lower is the card's, and each node keeps its own."""
    nodes = [{"card": "T4", "price_per_hour": 0.5}, {"card": "T4", "hosts": ["a"], "price_per_hour": 0.2}]
    plan = plan_for("local", nodes=nodes)
    assert [(node.node, node.price_per_hour) for node in plan.nodes] == [("t4-0", 0.5), ("t4-2-a-0", 0.2)]
    assert [card.price_per_hour for card in plan.cards] == [0.2]


def test_a_note_says_which_ram_a_node_is_predicted_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A node's RAM, which decides the swap space, is FLEET.toml's, else assumed, and for this host its own; a note says which."""
    nodes = [{"card": "T4", "ram_available_gib": 12.5}, {"card": "L4"}]
    groups = plan_fleet(_spec("ray", nodes=nodes)).groups
    assert [(each.ram.num_bytes, each.ram.source) for each in groups] == [
        (12.5 * GIB, "FLEET.toml"),
        (64 * GIB, "assumed"),
    ]
    assert [each.to_json()["predicted"]["swap_gib"] for each in groups] == [3.0, 6.0]
    assert plan_fleet(_spec("local")).groups[0].to_json()["ram_source"] == "this machine"
    (tmp_path / "FLEET.toml").write_text(
        'name = "a"\nengine = "ray"\nresults = "/r"\nprofile = "llama31-8b-instruct-4bit"\n'
        '[[nodes]]\ncard = "T4"\nram_available_gib = 12\n[[nodes]]\ncard = "L4"\n'
    )
    assert cli.run(["fleet", "plan", str(tmp_path / "FLEET.toml"), "--out", str(tmp_path / "a")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "FLEET.toml: 12.00 GiB of RAM available on each node" in out
    assert "The swap space assumes 64.00 GiB of available RAM on each node; set ram_available_gib in [[nodes]]" in out


def test_the_plan_holds_each_cards_prediction():
    """The plan holds each card's predicted figures, and the lock that each node must have."""
    plan = plan_for("local", settings={"max_seq_length": 1024, "weights": "synthetic"})
    assert {card.card: card.predicted["weights_gib"] for card in plan.cards} == {"T4": 5.3541, "A100-40GB": 5.3541}
    assert plan.lock_sha256 == lock_sha256() and plan.profile.max_seq_length == 1024
    assert plan.arguments == ("llama31-8b-instruct-4bit", "--weights", "synthetic", "--max-seq-length", "1024")


def _planned_and_written(changes: dict[str, Any]) -> None:
    plan = plan_fleet(_spec("local", **changes)).plan
    assert plan is not None
    engine_of(plan).files(plan)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"profile": "other"}, "there is no profile"),
        ({"profile": "./mine.toml"}, "there is no profile"),
        ({"nodes": [{"card": "T5"}]}, "there is no GPU 'T5'"),
        ({"nodes": [{"card": "cpu"}]}, "needs a GPU|runs on a GPU"),
        ({"nodes": [{"card": "RTX3090"}, {"card": "X1"}]}, "X1"),
        ({"nodes": []}, "at least 1|length"),
        ({"nodes": [{"card": "T4", "hosts": ["a"], "count": 2}]}, "hosts and a count"),
        ({"nodes": [{"card": "T4", "hosts": ["a b"]}]}, "hosts"),
        ({"image": "registry.example/loadcheck:latest"}, "no digest"),
        ({"image": IMAGE + " $(rm)"}, "image"),
        ({"name": "../up"}, "name"),
        ({"name": "a" * 41}, "name"),
        (
            {
                "engine": "kubernetes",
                "name": "a" * 40,
                "nodes": [{"card": "T4", "hosts": ["b" * 20]}],
                "kubernetes": {"results_claim": "x"},
            },
            "63",
        ),
        ({"settings": {"max_seq_lenght": 1}}, "max_seq_lenght"),
        ({"until": "2026-11-29T12:00:00"}, "no zone"),
        ({"results": "'; rm -rf / #"}, "results"),
        ({"engine": "slurm"}, "no table"),
        ({"engine": "kubernetes", "image": None, "kubernetes": {"results_claim": "x"}}, "needs an image"),
    ],
)
def test_an_invalid_fleet_is_refused_with_its_key(changes: dict[str, Any], word: str):
    """An invalid fleet is refused with its key, before anything is written."""
    with pytest.raises(BadInput, match=word):
        _planned_and_written(changes)


def test_kubernetes_gets_a_job_for_each_card():
    """Each card gets an indexed job, by digest, on nodes with the card's label, with /dev/shm, tolerations, secrets and nothing more than it needs."""
    jobs = list(yaml.safe_load_all(engine_of(plan := plan_for("kubernetes", retries=1)).files(plan)["job.yaml"]))
    assert [job["metadata"]["name"] for job in jobs] == ["fleet-t4", "fleet-a100-40gb"]
    spec, pod = jobs[0]["spec"], jobs[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimitPerIndex"]) == (
        "Indexed",
        3,
        3,
        1,
    )
    assert spec["suspend"] and jobs[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert container["image"] == IMAGE and container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["args"] == ["fleet", "node", "/home/loadcheck/runs", "llama31-8b-instruct-4bit"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["LOADCHECK_NODE"] == "t4-$(LOADCHECK_INDEX)" and env["LOADCHECK_IMAGE"] == IMAGE
    assert list(env).index("LOADCHECK_INDEX") < list(env).index("LOADCHECK_NODE")  # which is made of it
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm" and mounts["token"] == "/run/secrets/hf_token"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in pod["volumes"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["Tesla-T4"]}]
    assert not pod["automountServiceAccountToken"] and container["securityContext"]["readOnlyRootFilesystem"]


def test_a_named_host_gets_a_job_of_its_own():
    """A named host gets its own job, with the host in the node's name and in the placement."""
    plan = plan_for("kubernetes", nodes=[{"card": "T4", "hosts": ["gpu-a", "gpu-b"]}])
    jobs = list(yaml.safe_load_all(engine_of(plan).files(plan)["job.yaml"]))
    assert [node.node for node in plan.nodes] == ["t4-gpu-a-0", "t4-gpu-b-0"]
    assert [job["metadata"]["name"] for job in jobs] == ["fleet-t4-gpu-a", "fleet-t4-gpu-b"]
    assert "gpu-b" in json.dumps(jobs[1]["spec"]["template"]["spec"]["affinity"])


def test_without_a_gpu_none_is_asked_for():
    """On a CPU node no engine asks for a card, a label or a toleration."""
    changes: dict[str, Any] = {"profile": "smollm2-135m-cpu", "nodes": [{"card": "cpu", "count": 2}]}
    plans = {engine: plan_for(engine, **changes) for engine in OPTIONS}
    texts = {engine: "".join(engine_of(plan).files(plan).values()) for engine, plan in plans.items()}
    words = re.compile(r"nvidia\.com|--gpus|accelerator|--gres|num_gpus")
    assert {engine: words.findall(text.partition("@ray.remote")[0]) for engine, text in texts.items()} == {
        engine: [] for engine in OPTIONS
    }


def test_skypilot_gets_a_task_for_each_card():
    """Each card gets a task, by SkyPilot's name for it and by digest; one failing machine does not end the others; all are taken down."""
    plan = plan_for("skypilot")
    files = engine_of(plan).files(plan)
    task = yaml.safe_load(files["a100-40gb.yaml"])
    assert task["resources"] == {"accelerators": "A100:1", "disk_size": 100} and task["num_nodes"] == 1
    assert task["file_mounts"] == {"/bucket": {"source": "s3://mine", "mode": "MOUNT"}}
    assert task["envs"]["LOADCHECK_IMAGE"] == IMAGE and '"$LOADCHECK_IMAGE" fleet node /var/tmp/fleet ' in task["run"]
    assert "LOADCHECK_NODE=a100-40gb-${SKYPILOT_NODE_RANK:-0}" in task["run"] and "|| echo" in task["run"]
    assert all("--down" in command for command in engine_of(plan).start(plan))
    plan = plan_for("skypilot", skypilot={"runtime": "image", "infra": "runpod", "use_spot": True})
    task = yaml.safe_load(engine_of(plan).files(plan)["t4.yaml"])
    assert (
        task["resources"]["image_id"] == f"docker:{IMAGE}"
        and task["resources"]["use_spot"]
        and "docker run" not in task["run"]
    )


SKYPILOTS = {
    "T4": "T4",
    "V100-16GB": "V100",
    "A100-40GB": "A100",
    "A100-80GB": "A100-80GB",
    "L40S": "L40S",
    "RTX6000Ada": "RTX6000-Ada",
}
RAYS = {
    "Tesla T4": "T4", "Tesla V100-SXM2-16GB": "V100", "NVIDIA A100-SXM4-40GB": "A100", "NVIDIA H100 80GB HBM3": "H100", "NVIDIA A10G": "A10G",
    "NVIDIA RTX 6000 Ada Generation": "RTX", "NVIDIA GeForce RTX 4090": "G",
}  # fmt: skip


def test_card_names_of_the_engines():
    """The names of SkyPilot's catalog, and what Ray makes of a device name."""
    assert {card: accelerator(card, Skypilot()) for card in SKYPILOTS} == SKYPILOTS
    assert {name: accelerator_type(name) for name in RAYS} == RAYS


def test_skypilot_copies_a_run_into_the_bucket(tmp_path: Path):
    """SkyPilot copies a sealed run into the results folder of the bucket, and a failed load does not fail the machine."""
    plan = plan_for("skypilot", skypilot={"runtime": "image"})
    script = yaml.safe_load(engine_of(plan).files(plan)["t4.yaml"])["run"]
    for place in ("/var/tmp/fleet", "/bucket"):
        script = script.replace(place, str(tmp_path) + place)
    tool = tmp_path / "bin" / "loadcheck"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\nmkdir -p "$3/$LOADCHECK_NODE/1" && echo "$@" >"$3/$LOADCHECK_NODE/1/load.log"; exit 3\n'
    )
    tool.chmod(0o755)
    own = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "SKYPILOT_NODE_RANK": "2"}
    ran = subprocess.run(["bash", "-c", script], env={**os.environ, **own}, capture_output=True, text=True, check=True)
    assert "loadcheck: exit code 3" in ran.stdout
    assert (tmp_path / "bucket/fleet/t4-2/1/load.log").read_text().startswith("fleet node ")


@pytest.mark.parametrize("changes", [{"results": "results"}, {"nodes": [{"card": "T4", "hosts": ["a"]}]}])
def test_skypilot_refuses_results_that_would_be_lost(changes: dict[str, Any]):
    """Results on a machine that is taken down, and machines that SkyPilot cannot choose, are refused."""
    with pytest.raises(BadInput):
        engine_of(plan := plan_for("skypilot", **changes)).files(plan)


@pytest.mark.parametrize("container", ["apptainer", "pyxis"])
def test_slurm_gets_an_array_for_each_card(container: str, tmp_path: Path):
    """Each card gets a script that bash parses; the image it ran is recorded by what was there, not by what was requested."""
    plan = plan_for("slurm", slurm={**OPTIONS["slurm"], "container": container})
    write_files(plan, tmp_path)
    text = (tmp_path / "t4.sbatch").read_text()
    assert {"#SBATCH --array=0-2", "#SBATCH --gres=gpu:t4:1", "#SBATCH --partition=gpu", "#SBATCH --no-requeue"} <= set(
        text.splitlines()
    )
    assert "LOADCHECK_NODE=t4-$SLURM_ARRAY_TASK_ID" in text and 'cat "$bundle/digest"' in text
    assert "fleet node /home/loadcheck/runs llama31-8b-instruct-4bit" in text
    for script in tmp_path.glob("*.sbatch"):
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_a_slurm_script_runs_the_bundle(tmp_path: Path):
    """With the bundle's own `run` and a stand-in for Apptainer, node, digest and GPU reach the container."""
    bundle, tools, root = tmp_path / "bundle", tmp_path / "bin", tmp_path / "root"
    for folder in (bundle, tools, root / "usr/local/bin"):
        folder.mkdir(parents=True)
    (bundle / "digest").write_text("sha256:" + "a" * 64 + "\n")
    shutil.copy(ROOT / "scripts/image/bundle-run", bundle / "run")
    (tools / "apptainer").write_text('#!/bin/sh\necho "$@"; env | grep ^APPTAINERENV_ | sort\n')
    for program in (bundle / "run", tools / "apptainer", root / "usr/local/bin/loadcheck"):
        program.touch()
        program.chmod(0o755)
    plan = plan_for("slurm", results=str(tmp_path / "results"), slurm={"bundle": str(bundle), "root": str(root)})
    write_files(plan, tmp_path)
    own = {"SLURM_ARRAY_TASK_ID": "2", "CUDA_VISIBLE_DEVICES": "3", "PATH": f"{tools}:{os.environ['PATH']}"}
    command = ["bash", str(tmp_path / "t4.sbatch")]
    output = subprocess.run(
        command, env={**os.environ, **own}, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    first, *environment = output.splitlines()
    assert first.endswith(f"{root} /usr/local/bin/loadcheck fleet node /home/loadcheck/runs llama31-8b-instruct-4bit")
    assert f"--bind {tmp_path}/results:/home/loadcheck/runs,{tmp_path}/results/.weights/t4-2:" in first
    assert environment == [f"APPTAINERENV_{each}" for each in
                           ("CUDA_VISIBLE_DEVICES=3", f"LOADCHECK_FLEET={plan.identity}", f"LOADCHECK_IMAGE=sha256:{'a' * 64}", "LOADCHECK_NODE=t4-2")]  # fmt: skip


@pytest.mark.parametrize("engine", ["kubernetes", "skypilot", "slurm", "ray"])
def test_each_node_is_told_its_plan(engine: str):
    """Each node is told the plan's name and time, so that its runs are not mistaken for another plan's."""
    plan = plan_for(engine)
    assert re.fullmatch(r"fleet-\d{8}T\d{6}Z", plan.identity)
    assert all(plan.identity in text for text in engine_of(plan).files(plan).values())


def test_ray_gets_a_script_with_a_task_for_each_gpu():
    """A Python script that parses, with each node once, placed by Ray's name for its card."""
    plan = plan_for("ray")
    text = engine_of(plan).files(plan)["ray_fleet.py"]
    (nodes,) = (
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NODES"
    )
    found = {each["name"]: each["options"] for each in ast.literal_eval(nodes)}
    assert list(found) == [node.node for node in plan.nodes]
    assert found["a100-40gb-0"] == {"num_gpus": 1, "accelerator_type": "A100"}
    with pytest.raises(BadInput, match="another folder on each node"):
        engine_of(plan := plan_for("ray", results="results")).files(plan)


@pytest.mark.parametrize("engine", OPTIONS)
def test_every_engine_has_start_and_stop_commands(engine: str):
    """Each engine has start and stop commands in the plan's folder; every unit that costs money is in the stop command."""
    plan = plan_for(engine)
    module = engine_of(plan)
    assert all(isinstance(word, str) for command in (*module.start(plan), *module.stop(plan)) for word in command)
    if engine in ("skypilot", "slurm"):
        told = " ".join(word for command in module.stop(plan) for word in command)
        assert all(f"fleet-{unit}" in told for unit in plan.units())


def test_the_command_writes_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The command writes fleet.json and the engine's files, and refuses to overwrite them."""
    file = tmp_path / "FLEET.toml"
    file.write_text(
        f'name = "mine"\nengine = "kubernetes"\nimage = "{IMAGE}"\nprofile = "llama31-8b-instruct-4bit"\nuntil = 2030-01-01T00:00:00Z\n'
        '[[nodes]]\ncard = "t4"\ncount = 2\nprice_per_hour = 0.4\n[[nodes]]\ncard = "B200"\n[kubernetes]\nresults_claim = "fleet"\n'
    )
    out = tmp_path / "out"
    assert cli.run(["fleet", "plan", str(file), "--out", str(out)]) == 1
    output = capsys.readouterr().out
    assert (
        re.search(r"^T4 +2 +0.40 +5.3541 .*planned$", output, re.MULTILINE)
        and "B200: compute capability 10.0" in output
    )
    plan = read_plan(out / "fleet.json")
    assert [node.node for node in plan.nodes] == ["t4-0", "t4-1"] and plan.until is not None
    assert cli.run(["fleet", "plan", str(file), "--out", str(out)]) == 2
    assert cli.run(["fleet", "plan", str(file), "--out", str(out), "--force", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["files"] == ["fleet.json", "job.yaml"] and data["cards"][1]["refused"]


def test_a_problem_names_the_users_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What is wrong with a fleet is reported under the name of the file that was given, whatever it is called."""
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "a"\nengine = "local"\nprofile = "none"\nresults = "r"\n[[nodes]]\ncard = "T4"\ncount = 1\n'
    )
    assert cli.run(["fleet", "plan", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"Error: {file}: profile: there is no profile 'none'")


def _tables() -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "clouds.md").read_text(encoding="utf-8")
    return [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("table", _tables(), ids=lambda table: "-".join(table))
def test_the_examples_of_the_page_are_planned(table: dict[str, Any]):
    """Each FLEET.toml in docs/clouds.md, and each engine's table merged into the first, produces that engine's files."""
    engine = table.get("engine") or next(name for name in OPTIONS if name in table)
    data = table if "name" in table else {**_tables()[0], "engine": engine, **table}
    if engine == "skypilot":
        data["nodes"] = [{"card": "T4", "price_per_hour": 0.4}]
    planned = plan_fleet(validate(FleetSpec, data, "docs/clouds.md"))
    assert planned.plan is not None and planned.plan.engine == engine
    assert bool(engine_of(planned.plan).files(planned.plan)) is not planned.plan.is_of_this_host
