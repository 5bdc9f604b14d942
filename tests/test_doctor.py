"""The doctor's checks on faked facts, how facts are read, and the command."""

import base64
import dataclasses
import json
import os
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadcheck import cli, device
from loadcheck.device import Driver, GpuDevice, GpuProcess, is_wsl
from loadcheck.doctor import Finding, Level, Machine, Report, examine, facts, read_machine
from loadcheck.doctor.host import needed_disk_bytes
from loadcheck.doctor.settings import token_form
from loadcheck.errors import EXIT_FAIL, EXIT_MACHINE, EXIT_PASS
from loadcheck.machine import ChangedFile, Token
from loadcheck.manifest import record_hash
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.specs.profile import load_profile
from loadcheck.specs.versions import load_versions
from loadcheck.units import GIB, MIB
from loadcheck.weights import in_cache

NOW_S = 1_800_000_000.0
GPU_PLAN = make_plan(load_profile("llama31-8b-instruct-4bit"))
CPU_PLAN = make_plan(load_profile("smollm2-135m-cpu"))
T4 = GpuDevice("Tesla T4", "7.5", 15_828_320_256, 15_828_320_256 - 106_954_752, "12.4")
DRIVER = Driver("550.54.15", True, ())
GOOD = Machine(
    gpu=T4,
    driver=DRIVER,
    ram_total_bytes=30 * GIB,
    ram_available_bytes=12 * GIB,
    cache_dir="cache",
    disk_free_bytes=50 * GIB,
    shm_bytes=8 * GIB,
    libcuda_dirs=("/lib/x86_64-linux-gnu",),
    has_libcuda_link=True,
    compiler="/usr/bin/gcc",
    has_python_header=True,
    glibcxx_needed=(3, 4, 22),
    glibcxx_found=(3, 4, 30),
    installed={name: pin.version for name, pin in load_versions().pins.items()},
    has_edited_xformers=True,
)


def _examine(plan: LoadPlan = GPU_PLAN, **changes: Any) -> Report:
    return examine(dataclasses.replace(GOOD, **changes), plan)


def _problems(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.level is not Level.OK]


def _only_finding(report: Report) -> Finding:
    """The only finding that is not OK."""
    assert len(_problems(report)) == 1, _problems(report)
    return _problems(report)[0]


def _local_plan(folder: Path, quantized: bool, **overrides: Any) -> LoadPlan:
    """A plan of a local directory with a tiny llama's config."""
    folder.mkdir()
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 1000, "max_position_embeddings": 2048,
    }  # fmt: skip
    if quantized:
        config["quantization_config"] = {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return make_plan(load_profile("llama31-8b-instruct-4bit", {"model": str(folder), "weights": "local", **overrides}))


def test_a_good_machine_is_fine():
    """On a good machine, with a GPU or without, every check passes and the exit code is 0."""
    for plan in (GPU_PLAN, CPU_PLAN):
        report = _examine(plan)
        assert (report.outcome, report.exit_code, _problems(report)) == ("fine", EXIT_PASS, [])
    assert {finding.check for finding in _examine().findings} == {
        "gpu", "driver", "capability", "processes", "memory", "platform", "ram", "disk", "libstdc++", "shm", "libcuda",
        "compiler", "versions", "files", "xformers-edit", "token", "visible-devices", "model-name", "server",
    }  # fmt: skip


def test_the_checked_packages_are_named():
    """The doctor checks only the main packages, and names the command that checks all."""
    found = next(finding.what for finding in _examine().findings if finding.check == "versions")
    assert found == "14 of the stack's main packages are as pinned; `loadcheck manifest` checks all"


def test_a_machine_without_a_gpu_is_fine_for_the_cpu():
    """The CPU profile needs no GPU, driver, compiler or shared memory."""
    bare = {"gpu": None, "driver": None, "compiler": None, "libcuda_dirs": (), "shm_bytes": None, "platform": "aarch64"}
    assert _examine(CPU_PLAN, **bare).outcome == "fine"


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"driver": None}, "no NVIDIA driver", "install the driver"),
        ({"driver": Driver("550.54.15", False, None), "in_container": True}, "has no access to it", "--gpus all"),
        ({"driver": Driver("550.54.15", False, None)}, "libcuda.so.1 is not found", "own libraries"),
        ({"variables": {"CUDA_VISIBLE_DEVICES": ""}}, "leaves no GPU visible", "unset CUDA_VISIBLE_DEVICES"),
        ({}, "lists no device", "dmesg"),
    ],
)
def test_each_reason_for_no_gpu_has_its_own_remedy(changes: dict[str, Any], what: str, remedy: str):
    """No driver, a container without its GPU, a missing library, a hidden GPU and a driver without a device get different remedies."""
    report = _examine(gpu=None, **changes)
    finding = next(finding for finding in report.findings if finding.check == "gpu")
    assert what in finding.what and remedy in finding.remedy and "smollm2-135m-cpu" in finding.remedy
    assert (report.outcome, report.exit_code) == ("cannot", EXIT_MACHINE)


@pytest.mark.parametrize(
    ("version", "level", "says"),
    [
        ("470.256.02", Level.PROBLEM, "older than 525.60.13"),
        ("525.60.12", Level.PROBLEM, "older than 525.60.13"),
        ("525.60.13", Level.OK, "newer minor version"),
        ("535.183.01", Level.OK, "newer minor version"),
        ("550.54.14", Level.OK, "runs CUDA 12.4"),
        ("580.159.04", Level.OK, "runs CUDA 12.4"),
    ],
)
def test_drivers(version: str, level: Level, says: str):
    """Drivers from 525.60.13 run CUDA 12.4, below 550.54.14 by minor-version compatibility."""
    finding = next(each for each in _examine(driver=Driver(version, True, ())).findings if each.check == "driver")
    assert finding.level is level and says in f"{finding.what} {finding.why}"
    assert finding.cannot is (level is Level.PROBLEM)


@pytest.mark.parametrize(
    ("capability", "level", "says"),
    [
        ("6.0", Level.PROBLEM, "below 7.0"),
        ("7.0", Level.OK, "float16, as it has no bfloat16"),
        ("7.5", Level.OK, "float16, as it has no bfloat16"),
        ("8.0", Level.OK, "bfloat16"),
        ("9.0", Level.OK, "bfloat16"),
        ("10.0", Level.PROBLEM, "above 9.0"),
        ("12.0", Level.PROBLEM, "above 9.0"),
    ],
)
def test_compute_capabilities(capability: str, level: Level, says: str):
    """Compute capabilities 7.0 to 9.0 are supported; the capability decides between float16 and bfloat16."""
    report = _examine(gpu=dataclasses.replace(T4, name="A card", compute_capability=capability))
    finding = next(each for each in report.findings if each.check == "capability")
    assert finding.level is level and says in finding.what
    assert report.exit_code == (EXIT_MACHINE if level is Level.PROBLEM else EXIT_PASS)


@pytest.mark.parametrize(("capability", "times"), [("7.0", 1), ("7.5", 0), ("8.0", 0)])
def test_volta_gets_one_warning(capability: str, times: int):
    """Prefix caching aborts on Volta: one warning about the capability, and none about memory."""
    report = _examine(gpu=dataclasses.replace(T4, name="A card", compute_capability=capability))
    found = [each for each in report.findings if "Volta" in each.what]
    assert [(each.check, each.level) for each in found] == [("capability", Level.WARNING)] * times


def test_processes_on_the_gpu_are_named():
    """Processes on the GPU are a warning with their names; so is memory in use without a visible process."""
    processes = (GpuProcess(4242, "python3", 3 * GIB), GpuProcess(7, None, None))
    finding = _only_finding(_examine(driver=Driver("550.54.15", True, processes)))
    assert finding.what == (
        "in use on the GPU: python3 (process 4242, 3.00 GiB), outside of this container (process 7)"
    )
    hidden = dataclasses.replace(T4, free_bytes=T4.free_bytes - GIB)
    finding = next(each for each in _problems(_examine(gpu=hidden)) if each.check == "processes")
    assert "not visible from here" in finding.what and "vllm #2248" in finding.references


def test_memory_is_compared_with_the_prediction():
    """A predicted lack of memory is a problem, with the prediction's words and remedy."""
    little = dataclasses.replace(T4, total_bytes=8 * GIB, free_bytes=8 * GIB - 100 * MIB)
    report = _examine(gpu=little)
    problems = [finding for finding in report.problems if finding.check == "memory"]
    assert problems and all("the engine would say" in finding.why and finding.remedy for finding in problems)
    assert report.exit_code == EXIT_FAIL


def test_a_full_batch_that_would_not_fit_is_a_warning():
    """If the load fits but a full batch would not, that is a warning before the start, and no reason to refuse."""
    report = _examine(make_plan(load_profile("llama31-8b-instruct-4bit", {"gpu_memory_utilization": 0.97})))
    finding = next(each for each in _problems(report) if "requests at once" in each.what)
    assert (finding.check, finding.level, report.exit_code) == ("memory", Level.WARNING, EXIT_PASS)


@pytest.mark.parametrize("changes", [{"max_seq_length": 128}, {"gpu_memory_utilization": 0.2}])
def test_a_load_without_vllm_is_not_refused_for_vllms_reasons(changes: dict[str, Any]):
    """Without vLLM, what vLLM would lack is no problem."""
    name = "llama31-8b-instruct-4bit"
    with_vllm = make_plan(load_profile(name, changes))
    assert any(finding.check == "memory" for finding in _problems(_examine(with_vllm)))
    without = make_plan(load_profile(name, changes | {"fast_inference": False}))
    assert not _problems(_examine(without))


def test_free_memory_near_a_step_of_sequences_is_a_warning():
    """Free memory close to a step of unsloth's table of sequences is a warning: the figures may differ from day to day."""
    h100 = GpuDevice("NVIDIA H100 80GB HBM3", "9.0", 85_017_493_504, 84_465_090_560, "13.0")
    finding = _only_finding(_examine(gpu=h100, ram_available_bytes=100 * GIB, ram_total_bytes=125 * GIB))
    assert (finding.check, finding.level) == ("memory", Level.WARNING)
    assert "226" in finding.what


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "no GPU is visible"),
        ("-1", "no GPU is visible"),
        ("1", "cuda:1 is requested"),
        ("2,0", "cuda:2 is requested"),
        ("0,1", "uses the first"),
        ("GPU-8f2b3c1d", "no device cuda:GPU-8f2b3c1d"),
        ("MIG-1", "no device cuda:MIG-1"),
    ],
)
def test_visible_devices(value: str, says: str):
    """Any CUDA_VISIBLE_DEVICES except unset and 0 is a problem, each form with its own reason."""
    finding = _only_finding(_examine(variables={"CUDA_VISIBLE_DEVICES": value}))
    assert (finding.check, finding.level) == ("visible-devices", Level.PROBLEM)
    assert says in finding.what and "--gpus" in finding.remedy


def test_the_first_device_is_accepted():
    """CUDA_VISIBLE_DEVICES=0 is accepted, as unsloth sets it itself."""
    assert _examine(variables={"CUDA_VISIBLE_DEVICES": "0"}).outcome == "fine"


@pytest.mark.parametrize(
    "name",
    ["VLLM_USE_V1", "UNSLOTH_USE_MODELSCOPE", "UNSLOTH_VLLM_STANDBY", "BNB_CUDA_VERSION", "PYTORCH_CUDA_ALLOC_CONF"],
)
def test_variables_that_change_a_load(name: str):
    """A variable that would change the load is a warning with its name."""
    finding = _only_finding(_examine(variables={name: "1"}))
    assert (finding.level, finding.what) == (Level.WARNING, f"{name} is set")
    assert finding.remedy and finding.references


def test_memory_of_the_host():
    """Too little memory is a warning; a swap space above 70 % of it is refused by vLLM."""
    assert _only_finding(_examine(CPU_PLAN, ram_available_bytes=MIB)).check == "ram"
    finding = _only_finding(_examine(ram_total_bytes=2 * GIB))
    assert finding.cannot and "over 70 %" in finding.what


def test_disk():
    """A disk too small for the weights is a problem, unless they are already there or come from elsewhere."""
    report = _examine(disk_free_bytes=5 * GIB)
    assert _only_finding(report).check == "disk" and report.exit_code == EXIT_MACHINE
    assert _examine(disk_free_bytes=5 * GIB, has_weights=True).outcome == "fine"
    assert _examine(CPU_PLAN, disk_free_bytes=5 * GIB).outcome == "fine"
    assert 5_702_746_371 < needed_disk_bytes(GPU_PLAN) < 5_750_000_000


def test_shared_memory():
    """Docker's default of 64 MiB is a warning, and so is a missing /dev/shm."""
    assert "64.0 MiB" in _only_finding(_examine(shm_bytes=64 * MIB)).what
    assert "is not there" in _only_finding(_examine(shm_bytes=None)).what


@pytest.mark.parametrize(
    ("changes", "check", "says"),
    [
        ({"libcuda_dirs": ()}, "libcuda", "will not find libcuda.so.1"),
        ({"has_libcuda_link": False}, "libcuda", "no libcuda.so in /lib/x86_64-linux-gnu"),
        ({"compiler": None}, "compiler", "no C compiler"),
        ({"has_python_header": False}, "python-header", "Python.h"),
    ],
)
def test_what_triton_compiles_with(changes: dict[str, Any], check: str, says: str):
    """Triton needs a compiler, Python's headers, and a libcuda.so to link to."""
    report = _examine(**changes)
    finding = _only_finding(report)
    assert finding.check == check and says in finding.what and finding.remedy
    assert report.exit_code == EXIT_FAIL


@pytest.mark.parametrize(
    ("found", "says"),
    [("/usr/local/cuda/lib64/stubs", "LD_LIBRARY_PATH"), ("/usr/local/cuda-12.4/compat", "update the host's driver")],
)
def test_another_libcuda_than_the_drivers_is_named(found: str, says: str):
    """A stub, or the toolkit's compatibility library, found before the driver's libcuda is a problem; after it, it is not."""
    own = "/usr/lib/x86_64-linux-gnu"
    finding = _only_finding(_examine(libcuda_dirs=(found, own)))
    assert finding.check == "libcuda" and found in finding.what and says in finding.remedy
    assert _examine(libcuda_dirs=(own, found)).outcome == "fine"


def test_libstdcxx_must_be_new_enough():
    """A libstdc++ without the symbols that bitsandbytes needs is a problem; exactly these are enough."""
    assert "has up to GLIBCXX_3.4.21" in _only_finding(_examine(glibcxx_found=(3, 4, 21))).what
    assert _examine(glibcxx_found=(3, 4, 22)).outcome == "fine"


def test_version_drift_is_a_problem():
    """A package with another version, or a missing one, is a problem with the pin and its reason."""
    installed = {name: version for name, version in GOOD.installed.items() if name != "setuptools"} | {"trl": "0.15.0"}
    trl, setuptools = _problems(_examine(installed=installed))
    assert trl.what == "trl 0.14.0 is pinned, and 0.15.0 is installed" and "0.15.0 breaks" in trl.why
    assert setuptools.what == "setuptools 75.8.0 is pinned, and none is installed"
    assert _examine(installed=dict(GOOD.installed) | {"torch": "2.5.1+cu124"}).outcome == "fine"


def test_an_environment_without_the_stack_is_fine():
    """Before `make load` no stack is installed: that is reported, but neither as a problem nor as a warning."""
    report = _examine(installed={})
    assert report.outcome == "fine"
    assert [each.what for each in report.findings if each.check == "versions"] == [
        "this environment has no stack; once `make load` has installed one, `make doctor` checks its versions and files"
    ]


@pytest.mark.parametrize(
    ("plan", "installed", "free_bytes", "weights_free_bytes", "outcome"),
    [
        (GPU_PLAN, {}, 7 * GIB, 50 * GIB, "cannot"),
        (GPU_PLAN, {}, 8 * GIB, 50 * GIB, "fine"),
        (GPU_PLAN, {}, 12 * GIB, 12 * GIB, "cannot"),  # on one disk, where the weights take another 5.3 GiB
        (GPU_PLAN, {}, 13 * GIB, 13 * GIB, "fine"),
        (CPU_PLAN, {}, 5 * GIB, 50 * GIB, "cannot"),
        (GPU_PLAN, GOOD.installed, 0, 50 * GIB, "fine"),
        (GPU_PLAN, {}, None, 50 * GIB, "fine"),
    ],
)
def test_the_disk_must_hold_the_stack(
    plan: LoadPlan, installed: dict[str, str], free_bytes: int | None, weights_free_bytes: int, outcome: str
):
    """The disk must have room for the stack before it is installed, and for the weights if they share the disk."""
    report = _examine(plan, installed=installed, environment_free_bytes=free_bytes, disk_free_bytes=weights_free_bytes)
    assert report.outcome == outcome


@pytest.mark.parametrize(
    ("made", "is_named"),
    [("torch/__init__.py", True), ("numpy.py", True), ("google/protobuf/a.py", True), ("torchx/__init__.py", False)],
)
def test_python_path_that_shadows_a_pinned_package(made: str, is_named: bool, tmp_path: Path):
    """A folder or module in PYTHONPATH with the name of a pinned package is a warning with its name; anything else is not."""
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).touch()
    found = facts._shadowed(os.pathsep.join(("/nowhere", str(tmp_path))))
    assert bool(found) is is_named
    assert [each.check for each in _problems(_examine(shadowed=found))] == ["python-path"] * is_named


def test_no_python_path_shadows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An unset PYTHONPATH is not the current folder; an empty entry in it is."""
    (tmp_path / "torch").mkdir()
    monkeypatch.chdir(tmp_path)
    assert facts._shadowed("") == ()
    assert facts._shadowed("/nowhere" + os.pathsep) == ("torch",)


def test_edited_files_are_named():
    """A file that differs from its wheel is a problem; unsloth's own edit is named, but is none."""
    own = ChangedFile("xformers/ops/fmha/cutlass.py", "changed", "unsloth's own edit")
    odd = tuple(ChangedFile(f"vllm/{number}.py", "changed", None) for number in range(7))
    finding = _only_finding(_examine(changed_files=(own, *odd)))
    assert "vllm/0.py (changed)" in finding.what and finding.what.endswith("and 2 more")
    expected = next(each for each in _examine(changed_files=(own,)).findings if each.check == "files")
    assert expected.level is Level.OK and "cutlass.py (unsloth's own edit)" in expected.what


def test_xformers_before_unsloths_edit_is_said():
    """If unsloth has not edited xformers yet, the reason is given."""
    finding = next(each for each in _examine(has_edited_xformers=False).findings if each.check == "xformers-edit")
    assert finding.level is Level.OK and "on its first import" in finding.what


def _jwt(expires_s: float) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"exp": expires_s}).encode()).rstrip(b"=").decode()
    return f"hf_jwt_eyJhbGciOiJFUzI1NiJ9.{payload}.c2ln"


@pytest.mark.parametrize(
    ("token", "form"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("hf_" + "a" * 34, "well-formed"),
        ("hf_" + "a" * 34 + "\n", "well-formed"),
        ("hf_" + "a" * 10 + " " + "b" * 24, "malformed"),
        ("hf_short", "malformed"),
        ("sk-" + "a" * 40, "malformed"),
        ("api_org_" + "a" * 34, "of a retired form"),
        (_jwt(NOW_S - 1), "expired"),
        (_jwt(NOW_S + 1), "well-formed"),
        ("eyJ.notbase64!.x", "malformed"),
        ("eyJhbGciOiJFUzI1NiJ9", "malformed"),
    ],
)
def test_token_forms(token: str, form: str):
    """A token's form and date are read from its text alone, without a network."""
    assert token_form(token, NOW_S) == form


def test_tokens():
    """A bad token is a problem if the hub is needed, an empty one a warning, and none is fine."""
    finding = _only_finding(_examine(tokens=(Token("HF_TOKEN", "expired"),)))
    assert finding.level is Level.PROBLEM and finding.what == "HF_TOKEN is expired"
    assert _only_finding(_examine(tokens=(Token("HF_TOKEN", "empty"),))).level is Level.WARNING
    assert _examine(tokens=(Token("HF_TOKEN", "well-formed"),)).outcome == "fine"
    assert _examine(CPU_PLAN, tokens=(Token("HF_TOKEN", "expired"),)).outcome == "fine"


def test_offline_without_weights_is_a_problem():
    """HF_HUB_OFFLINE is accepted once the weights are there."""
    assert _only_finding(_examine(variables={"HF_HUB_OFFLINE": "1"})).check == "offline"
    assert _examine(variables={"HF_HUB_OFFLINE": "1"}, has_weights=True).outcome == "fine"
    assert _examine(variables={"HF_HUB_OFFLINE": "0"}).outcome == "fine"


@pytest.mark.parametrize(
    ("name", "quantized", "overrides", "says"),
    [
        ("tiny-bnb-4bit", True, {}, None),
        ("Tiny-BNB-4bit", True, {}, None),
        ("tiny", False, {"load_in_4bit": False}, None),
        ("tiny", True, {}, "is quantized, but its name does not end in -bnb-4bit"),
        ("tiny-bnb-4bit", False, {}, "config.json has no quantization"),
        ("tiny", False, {}, "will load in 16 bits, whatever load_in_4bit says"),
        ("tiny", False, {"fast_inference": False}, None),
    ],
)
def test_the_name_of_a_local_directory_must_match_its_config(
    name: str, quantized: bool, overrides: Any, says: str | None, tmp_path: Path
):
    """Under vLLM unsloth goes by the end of a directory's name. If config.json disagrees, the load fails or is silently in 16 bits."""
    report = _examine(_local_plan(tmp_path / name, quantized, **overrides))
    found = [finding for finding in _problems(report) if finding.check == "model-name"]
    assert [says in finding.what for finding in found if says] == ([True] if says else [])
    assert bool(found) is bool(says)


def test_an_adapter_beside_a_local_model_is_a_problem(tmp_path: Path):
    """unsloth cannot tell whether a directory with both config files is a model or an adapter."""
    plan = _local_plan(tmp_path / "tiny-bnb-4bit", True)
    (tmp_path / "tiny-bnb-4bit" / "adapter_config.json").write_text("{}")
    assert any("adapter_config.json lies beside" in finding.what for finding in _problems(_examine(plan)))


def test_a_machine_that_cannot_load_exits_3():
    """If the machine lacks something the exit code is 3, whatever else must be fixed."""
    assert _examine(gpu=None, compiler=None).exit_code == EXIT_MACHINE


def test_every_finding_that_is_not_ok_says_why_and_how_to_fix_it():
    """On the worst machine each finding has a reason and a remedy."""
    worst = Machine(
        platform="riscv64", variables={"CUDA_VISIBLE_DEVICES": "1"}, tokens=(Token("HF_TOKEN", "malformed"),)
    )
    for plan in (GPU_PLAN, CPU_PLAN):
        bad = _problems(examine(worst, plan))
        assert len(bad) >= 3 and all(finding.why and finding.remedy for finding in bad)


# -------------------------------------------------------------------------------------------------------------------- facts


def _distribution(site: Path) -> Distribution:
    """An installed package of four files: one unchanged, one edited, one with another size, one missing."""
    info = site / "odd-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    lines = []
    for name, recorded, now in (("same", b"abc", b"abc"), ("edited", b"abc", b"abd"), ("longer", b"abc", b"abcd")):
        (site / f"{name}.py").write_bytes(recorded)
        lines.append(f"{name}.py,sha256={record_hash(site / f'{name}.py')},{len(recorded)}")
        (site / f"{name}.py").write_bytes(now)
    lines += [
        "gone.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0",
        "odd-1.0.dist-info/RECORD,,",
        "same.pyc,,",
    ]
    (info / "RECORD").write_text("\n".join(lines) + "\n")
    return PathDistribution(info)


def test_files_are_compared_with_their_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An edited file, another size and a missing file are found; files without a hash in RECORD are skipped."""
    distribution = _distribution(tmp_path / "site")
    monkeypatch.setattr(facts, "distributions", lambda: [distribution])
    assert facts._changed_files() == (
        ChangedFile("edited.py", "changed", None),
        ChangedFile("longer.py", "changed", None),
        ChangedFile("gone.py", "missing", None),
    )


def test_a_token_never_leaves_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The facts hold where a token is and its form, and nothing of its text; the variable takes precedence over the file."""
    canary = "hf_" + "canary" * 6
    (tmp_path / "token").write_text(canary + "\n")
    monkeypatch.setenv("HF_TOKEN", canary)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(facts, "_changed_files", lambda: ())
    machine = read_machine(CPU_PLAN, None)
    assert machine.tokens == (Token("HF_TOKEN", "well-formed"), Token(str(tmp_path / "token"), "well-formed"))
    assert "canary" not in repr(machine)


class _NvmlError(Exception):
    pass


def _nvml_processes(handle: str) -> list[SimpleNamespace]:
    """This process, and one outside this container."""
    if handle == "lost":
        raise _NvmlError
    return [SimpleNamespace(pid=os.getpid(), usedGpuMemory=GIB), SimpleNamespace(pid=2**31 - 1, usedGpuMemory=None)]


NVML = SimpleNamespace(
    NVMLError=_NvmlError,
    nvmlSystemGetDriverVersion=lambda: "580.159.04",
    nvmlDeviceGetComputeRunningProcesses=_nvml_processes,
)


@pytest.mark.parametrize("handle", ["first", "lost"])
def test_the_driver_is_read_from_nvml(handle: str, monkeypatch: pytest.MonkeyPatch):
    """NVML gives the version and the processes; for a lost GPU there are no processes."""
    monkeypatch.setattr(device, "_nvml", lambda: (NVML, handle))
    driver = device.read_driver()
    assert driver is not None and driver.version == "580.159.04"
    if handle == "lost":
        assert driver.processes is None
    else:
        assert driver.processes is not None and [each.name is None for each in driver.processes] == [False, True]
        assert [each.used_bytes for each in driver.processes] == [GIB, None]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build", "580.159.04"),
        (None, None),
    ],
)
def test_the_driver_is_read_from_the_kernel(
    text: str | None, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a container without a GPU, /proc still shows the host's driver."""
    if text:
        (tmp_path / "version").write_text(text)
    monkeypatch.setattr(device, "_nvml", lambda: (None, None))
    monkeypatch.setattr(device, "_has_library", lambda: False)
    monkeypatch.setattr(device, "KERNEL_DRIVER", tmp_path / "version")
    assert device.read_driver() == (Driver(version, False, None) if version else None)


def test_triton_searches_the_folder_of_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If TRITON_LIBCUDA_PATH is set, only that folder is searched for the link."""
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(tmp_path))
    assert facts._libcuda_dirs() == (str(tmp_path),)
    (tmp_path / "libcuda.so").touch()
    assert facts._has_libcuda_link((str(tmp_path),), None)


@pytest.mark.parametrize(("answer", "found"), [("libcuda.so", False), ("/usr/lib/libcuda.so", True)])
def test_the_compiler_is_asked_for_the_link(answer: str, found: bool, tmp_path: Path):
    """If Triton's directories have no link, the compiler is asked; an answer of the bare name means none."""
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho {answer}\n")
    compiler.chmod(0o755)
    assert facts._has_libcuda_link((str(tmp_path),), str(compiler)) is found
    assert not facts._has_libcuda_link((), str(tmp_path / "no-compiler"))


def test_symbol_versions_are_compared_as_numbers(tmp_path: Path):
    """3.4.9 is older than 3.4.30, although not as text."""
    library = tmp_path / "lib.so"
    library.write_bytes(b"\0GLIBCXX_3.4.9\0GLIBCXX_3.4.30\0GLIBCXX_3.4\0GLIBCXX_DEBUG\0")
    assert facts._newest_symbol(library) == (3, 4, 30)
    assert facts._newest_symbol(tmp_path / "none.so") is None


def test_a_missing_folder_is_on_its_parents_disk(tmp_path: Path):
    """A folder that does not exist yet is on the disk of its nearest existing parent."""
    assert facts._disk_free_bytes(tmp_path / "not" / "yet") > 0


def test_weights_in_the_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Weights in the cache under their final name count as present, from each of their sources."""
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path))
    synthetic = make_plan(load_profile("llama31-8b-instruct-4bit", {"weights": "synthetic"}))
    folders = {
        "f15c379fb32b/meta-llama-3.1-8b-instruct-bnb-4bit": GPU_PLAN,
        "smollm2-135m-instruct-0123456789ab-bnb-4bit": CPU_PLAN,
        "synthetic/llama-3.1-8b-instruct-bnb-4bit": synthetic,
    }
    for folder, plan in folders.items():
        assert not in_cache(plan)
        (tmp_path / "weights" / folder).mkdir(parents=True)
        assert in_cache(plan)


# ------------------------------------------------------------------------------------------------------------------ command


@pytest.mark.parametrize(
    ("machine", "outcome", "code"),
    [(GOOD, "fine", EXIT_PASS), (dataclasses.replace(GOOD, compiler=None), "problems", EXIT_FAIL),
     (dataclasses.replace(GOOD, gpu=None), "cannot", EXIT_MACHINE)],
)  # fmt: skip
def test_the_command(
    machine: Machine, outcome: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """--json prints one document on stdout and nothing on stderr; the exit code is the result."""
    monkeypatch.setattr("loadcheck.doctor.read_machine", lambda plan, gpu: machine)
    assert cli.run(["doctor", "--profile", "llama31-8b-instruct-4bit", "--json"]) == code
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert (data["profile"], data["outcome"]) == ("llama31-8b-instruct-4bit", outcome)
    assert all(
        {"check", "level", "what", "why", "remedy", "references", "cannot"} == set(each) for each in data["findings"]
    )
    assert captured.err == ""


def test_markup_in_a_fact_is_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Markup in a fact is shown literally."""
    odd = dataclasses.replace(GOOD, compiler="/usr/bin/[bold]gcc[/bold]")
    monkeypatch.setattr("loadcheck.doctor.read_machine", lambda plan, gpu: odd)
    cli.run(["doctor", "--profile", "llama31-8b-instruct-4bit"])
    assert "[bold]gcc[/bold]" in capsys.readouterr().out


@pytest.mark.parametrize(("checkpointing", "warns"), [("unsloth", True), (True, False), (False, False)])
def test_wsl2_has_little_pinned_memory(checkpointing: str | bool, warns: bool):
    """On WSL2 a profile whose training moves activations to pinned memory gets a warning with the remedy; elsewhere not."""
    plan = make_plan(load_profile("llama31-8b-instruct-4bit", {"adapters.use_gradient_checkpointing": checkpointing}))
    found = _problems(_examine(plan, is_wsl=True))
    assert [finding.check for finding in found] == ["pinned-memory"] * warns
    assert all("use_gradient_checkpointing=True" in finding.remedy for finding in found)
    assert not _problems(_examine(plan))


@pytest.mark.parametrize(
    ("release", "wsl"),
    [("5.15.167.4-microsoft-standard-WSL2", True), ("4.4.0-19041-Microsoft", True), ("6.8.0-45-generic", False)],
)
def test_wsl_is_recognized_by_its_kernel(release: str, wsl: bool):
    """WSL is recognized by the kernel's release."""
    assert is_wsl(release) is wsl
