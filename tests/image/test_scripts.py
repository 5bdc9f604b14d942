"""The image's scripts without Docker, an image or a GPU: what they refuse, and how."""

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from loadcheck.specs.files import read_toml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "image"
TOOLS = (
    "bash",
    "dirname",
    "awk",
    "grep",
    "df",
    "tail",
    "head",
    "cat",
    "mktemp",
    "rm",
    "git",
    "id",
    "mkdir",
    "realpath",
)

needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")


def run(command, path=None, **environment):
    env = {**os.environ, **environment}
    if path is not None:
        env["PATH"] = str(path)
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def bin_dir(tmp_path):
    """A PATH with the tools that the scripts need, but no docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, tool
        (folder / tool).symlink_to(found)
    return folder


def add_program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def add_docker(folder, runtimes='{"runc":{}}', root="/"):
    add_program(
        folder,
        "docker",
        f"""case "$*" in
*Runtimes*) echo '{runtimes}' ;;
*DockerRootDir*) echo {root} ;;
*"image inspect"*) exit 1 ;;
esac""",
    )


def dockerfile_settings():
    text = (ROOT / "Dockerfile").read_text()
    block = re.search(r"^ENV (PATH=.*?)\n(?!    )", text, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    return dict(line.strip(" \\").split("=", 1) for line in block.group(1).split("\n"))


def test_the_wrapper_has_the_settings_of_the_dockerfile():
    """The wrapper and the Dockerfile set the same variables to the same values."""
    text = (SCRIPTS / "inside" / "settings").read_text()
    wrapper = dict(re.findall(r"^set_default (\w+) (.+)$", text, flags=re.MULTILINE))
    settings = dockerfile_settings()
    assert settings.pop("PATH").startswith("/opt/venv/bin:")
    assert wrapper == settings


def test_statistics_are_off_and_the_token_is_a_file():
    """No library sends statistics, and no variable of the image holds a secret."""
    settings = dockerfile_settings()
    assert settings["UNSLOTH_DISABLE_STATISTICS"] == settings["VLLM_NO_USAGE_STATS"] == settings["DO_NOT_TRACK"] == "1"
    assert "HF_TOKEN" not in settings


def test_no_service_shares_host_resources():
    """Memory, network, processes and devices are not shared; a GPU service has its own 1 GiB of /dev/shm, which doctor accepts."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        assert not {"ipc", "pid", "privileged", "devices", "cap_add"} & service.keys()
        assert service.get("network_mode", "none") == "none"
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert {name for name, service in services.items() if service.get("shm_size") == "1gb"} == {"load", "peft", "shell"}
    documented = [*(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py"), ROOT / "env" / "troubles.toml"]
    assert [path.name for path in documented if re.search(r"--ipc[ =]host", path.read_text(encoding="utf-8"))] == []


def test_every_removal_has_its_size_reason_and_test():
    """Each removal from the image has its size, reason and test."""
    facts = read_toml(ROOT / "env" / "image.toml")
    assert all(entry["bytes"] > 0 and entry["reason"] and entry["exercise"] for entry in facts["prune"])


def test_every_script_is_executable():
    """Scripts that the Makefile calls by name have a shebang and are executable; sourced ones and Python's are neither."""
    scripts = [path for path in (ROOT / "scripts").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    run = {path for path in scripts if path.read_bytes().startswith(b"#!")}
    assert run == {path for path in scripts if os.access(path, os.X_OK)}


def test_without_docker_the_remedy_is_named(bin_dir):
    """Without Docker: exit 3, with the remedy."""
    result = run([SCRIPTS / "run", "load"], bin_dir)
    assert (result.returncode, "Error: docker: not found on this machine; install Docker" in result.stderr) == (3, True)


def test_a_stopped_docker_engine_is_reported(bin_dir):
    """If Docker's engine is down, the error has the engine's own words."""
    add_program(bin_dir, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    result = run([SCRIPTS / "run", "load"], bin_dir)
    assert result.returncode == 3
    assert "does not answer (Cannot connect to the Docker daemon)" in result.stderr


def test_docker_without_a_gpu_runtime_is_refused_for_gpu_services(bin_dir):
    """`load` names the missing toolkit; `cpu` goes on, and fails for the missing image."""
    add_docker(bin_dir)
    assert "nvidia-container-toolkit" in run([SCRIPTS / "run", "load"], bin_dir).stderr
    result = run([SCRIPTS / "run", "cpu"], bin_dir)
    assert (result.returncode, "no such image here; make build" in result.stderr) == (2, True)


def test_the_runtime_is_local_without_a_gpu(bin_dir):
    """Docker without a GPU does not make a load run in the image."""
    add_docker(bin_dir, '{"nvidia":{}}')
    assert run([SCRIPTS / "runtime"], bin_dir).stdout == "local\n"


def test_the_runtime_is_the_image_if_docker_has_a_gpu(bin_dir):
    """The image is used if both the driver and Docker's runtime for it are there."""
    add_docker(bin_dir, '{"nvidia":{}}')
    add_program(bin_dir, "nvidia-smi", "echo 'GPU 0: Tesla T4'")
    assert run([SCRIPTS / "runtime"], bin_dir).stdout == "image\n"


@pytest.mark.parametrize(
    ("script", "engine", "says"),
    [
        ("echo 'GPU 0: Tesla T4 (UUID: GPU-1)'", "gpu", ""),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "cpu", "version mismatch"),
        ("echo 'No devices were found'", "cpu", "No devices were found"),
        ("exit 9", "cpu", "nvidia-smi printed nothing"),
    ],
)
def test_a_failing_driver_is_no_gpu_and_is_reported(script, engine, says, bin_dir):
    """If nvidia-smi fails, it prints its errors in place of its devices: that is no GPU, and reported."""
    add_program(bin_dir, "nvidia-smi", script)
    result = run([ROOT / "scripts" / "engine"], bin_dir)
    assert (result.stdout, says in result.stderr) == (f"{engine}\n", True)


def common(bin_dir, command):
    return run([bin_dir / "bash", "-c", f"source {shlex.quote(str(SCRIPTS))}/common; {command}"], bin_dir).returncode


@pytest.mark.parametrize("missing", ["first", "second", "third"])
def test_each_missing_tool_is_noticed(missing, bin_dir):
    """Each missing tool is noticed, even if the others are there."""
    for name in {"first", "second", "third"} - {missing}:
        add_program(bin_dir, name, "")
    assert common(bin_dir, "has_all first second third") == 1
    add_program(bin_dir, missing, "")
    assert common(bin_dir, "has_all first second third") == 0


def test_no_script_checks_several_commands_at_once():
    """`command -v a b` succeeds if any of them is there."""
    files = [
        *(path for path in (ROOT / "scripts").rglob("*") if path.is_file()),
        ROOT / ".ci" / "run",
        ROOT / "Makefile",
    ]
    asked = re.compile(r"^[^#]*command -v +(?!>)\S+ +(?![>|&;)\]])[^>]", re.MULTILINE)
    assert [path.name for path in files if path.suffix != ".pyc" and asked.search(path.read_text())] == []


ALLOWED_FAILURES = {
    "scripts/progress": 1,  # a process that has ended has no /proc
    "scripts/venv": 2,  # ends its own dots
    "scripts/image/bundle-run": 1,  # NVIDIA folders that only clusters have
    "scripts/image/ci": 2,  # ends what it started; if apt-get cannot fetch, the next line fails
    "scripts/image/oci": 1,  # cleans up
    ".ci/run": 1,  # apt-get again
}


def test_only_known_commands_may_fail_silently():
    """The number of commands in each script that may fail silently; a new one must be added here with its reason."""
    files = [
        *(path for path in (ROOT / "scripts").rglob("*") if path.is_file()),
        ROOT / ".ci" / "run",
        ROOT / "Makefile",
    ]
    found = {
        str(path.relative_to(ROOT)): count
        for path in files
        if path.suffix not in (".pyc", ".py") and (count := path.read_text().count("|| true"))
    }
    assert found == ALLOWED_FAILURES


def test_the_linters_check_everything_or_fail(bin_dir, tmp_path):
    """Without docker compose its file is not linted: exit 3, not a pass."""
    tools = tmp_path / ".venv" / "image-lint" / "bin"
    tools.mkdir(parents=True)
    for name in ("hadolint", "shellcheck"):
        add_program(tools, name, "exit 0")
    for name in ("scripts/image/lint", "scripts/image/common", "env/image-lint.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    os.utime(tmp_path / "env" / "image-lint.lock", (0, 0))
    (tools.parent / ".complete").touch()
    add_program(bin_dir, "docker", "exit 1")
    result = run([tmp_path / "scripts" / "image" / "lint"], bin_dir)
    assert (result.returncode, "docker-compose.yml was not checked" in result.stderr) == (3, True)
    add_program(bin_dir, "docker", "exit 0")
    assert run([tmp_path / "scripts" / "image" / "lint"], bin_dir).returncode == 0


@pytest.fixture
def ci(tmp_path, bin_dir):
    """.ci/run with fakes of the image's CI and make that only return exit codes."""
    for name in (".ci/run", "scripts/image/common"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (bin_dir / "timeout").symlink_to(str(shutil.which("timeout")))
    add_program(bin_dir, "make", "exit 0")
    add_program(tmp_path / "scripts" / "image", "ci", "exit $CI_EXIT")
    return tmp_path / ".ci" / "run"


@pytest.mark.parametrize(
    ("image", "user", "has_apt", "expected", "says"),
    [
        (0, 0, True, 0, "built, tested"),
        (3, 0, True, 1, "this machine (root, Debian) can build it"),
        (3, 0, False, 0, "skipped"),
        (3, 1000, True, 0, "skipped"),
        (1, 1000, False, 1, "failed with exit code 1"),
    ],
)
def test_a_skip_passes_only_if_nothing_can_be_installed(image, user, has_apt, expected, says, ci, bin_dir):
    """A skip is no pass for root on Debian, who could have installed the tools."""
    (bin_dir / "id").unlink()
    add_program(bin_dir, "id", f"echo {user}")
    for name in ("apt-get", "dpkg-deb") if has_apt else ():
        add_program(bin_dir, name, "")
    result = run([ci], bin_dir, CI_EXIT=str(image))
    assert (result.returncode, says in result.stdout) == (expected, True), result.stdout + result.stderr


def test_an_unknown_runtime_is_bad_usage(bin_dir):
    """An unknown runtime exits 2, and the known ones are listed."""
    result = run([SCRIPTS / "load", "podman", "cpu", "load"], bin_dir)
    assert (result.returncode, "image and local are known" in result.stderr) == (2, True)


def test_a_build_does_not_start_on_a_full_disk(bin_dir):
    """On a full disk a build states the free and the needed space before it fetches anything."""
    add_docker(bin_dir)
    (bin_dir / "df").unlink()
    add_program(bin_dir, "df", "echo Avail; echo 3000000000")
    result = run([SCRIPTS / "build"], bin_dir)
    assert (result.returncode, "3 GB are free, and 25 GB are needed" in result.stderr) == (3, True)


def write_blob(layout, data):
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def out(tmp_path):
    """OUT with a layout of two layers: the second replaces one file and removes another."""
    layout = tmp_path / "oci"
    first = write_blob(layout, tar_of({"etc/kept": "kept", "etc/old": "old", "etc/gone": "gone"}))
    second = write_blob(
        layout, tar_of({"etc/old": "new", "etc/.wh.gone": "", "usr/local/bin/loadcheck": "#!/bin/sh\n"})
    )
    settings = {"Env": ["A=b c"], "Labels": {}, "User": "1", "WorkingDir": "/w", "Entrypoint": ["x"], "Cmd": ["y"]}
    config = write_blob(layout, json.dumps({"config": settings, "history": [{}, {"created_by": "code"}]}).encode())
    manifest = write_blob(layout, json.dumps({"config": config, "layers": [first, second]}).encode())
    (layout / "index.json").write_text(json.dumps({"manifests": [manifest]}))
    return tmp_path


def layout_command(command, out):
    return run(["python3", SCRIPTS / "layout.py", command, out / "oci"])


def test_the_root_is_what_the_layers_leave(out):
    """A later layer's file wins, and a whiteout removes one."""
    data = subprocess.run(
        ["python3", SCRIPTS / "layout.py", "root", out / "oci"], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {entry.name: tar.extractfile(entry).read() for entry in tar}
    assert found == {"etc/kept": b"kept", "etc/old": b"new", "usr/local/bin/loadcheck": b"#!/bin/sh\n"}


def test_a_folder_without_an_image_is_named(tmp_path):
    """A folder without an image exits 2 without a traceback."""
    result = layout_command("digest", tmp_path)
    assert (result.returncode, result.stderr.startswith("Error: "), "Traceback" in result.stderr) == (2, True, False)


@pytest.fixture
def bundle(out):
    result = run([SCRIPTS / "bundle"], OUT=str(out), CHUNK_MB="1")
    assert result.returncode == 0, result.stderr
    return out / "bundle"


@needs_zstd
def test_a_complete_bundle_verifies_and_unpacks(bundle, tmp_path):
    """The unpacked root is the image's."""
    assert run([bundle / "run", "verify"]).returncode == 0
    assert run([bundle / "run", "unpack", tmp_path / "root"]).returncode == 0
    assert (tmp_path / "root/etc/old").read_text() == "new"


@needs_zstd
def test_a_missing_chunk_is_named_and_nothing_is_unpacked(bundle, tmp_path):
    """A missing chunk, as after an interrupted transfer, is named, and nothing is unpacked."""
    (bundle / "root.tar.zst.0000").unlink()
    result = run([bundle / "run", "unpack", tmp_path / "root"])
    assert (result.returncode, "root.tar.zst.0000: missing; copy it again" in result.stderr) == (2, True)
    assert not list(tmp_path.glob("root*"))


@needs_zstd
def test_a_damaged_chunk_is_named(bundle):
    """One changed byte in a chunk is found."""
    chunk = bundle / "root.tar.zst.0000"
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    result = run([bundle / "run", "verify"])
    assert (result.returncode, "root.tar.zst.0000: damaged" in result.stderr) == (2, True)


def sums_of(bundle):
    return (bundle / "SHA256SUMS").read_text().splitlines()


def cut(bundle):
    return sums_of(bundle)[:1]


def without_chunks(bundle):
    return [line for line in sums_of(bundle) if "root.tar" not in line]


def with_a_gap(bundle):
    shutil.copy(bundle / "root.tar.zst.0000", bundle / "root.tar.zst.0002")
    return [*sums_of(bundle), sums_of(bundle)[0].replace(".0000", ".0002")]


def with_another(line):
    return lambda bundle: [*sums_of(bundle), line.replace("SUM", "0" * 64)]


@needs_zstd
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (cut, "config: not named"),
        (without_chunks, "root.tar.zst.0000: not named"),
        (with_a_gap, "root.tar.zst.0001: not named"),
        (lambda bundle: [*sums_of(bundle), sums_of(bundle)[0]], "named twice"),
        (lambda bundle: [], "config: not named"),
        (with_another("SUM  ../../etc/passwd"), "no hash and name"),
        (with_another("SUM  /etc/passwd"), "no hash and name"),
        (with_another("SUM  other"), "no hash and name"),
        (with_another("SUM  root.tar.zst.0000/../x"), "no hash and name"),
        (with_another("root.tar.zst.0001"), "no hash and name"),
        (with_another(""), "no hash and name"),
    ],
)
def test_incomplete_checksums_are_refused(lines, says, bundle, tmp_path):
    """Checksums that are truncated, have a gap or a duplicate, or name other files: nothing is unpacked."""
    (bundle / "SHA256SUMS").write_text("".join(f"{line}\n" for line in lines(bundle)))
    result = run([bundle / "run", "unpack", tmp_path / "root"])
    assert (result.returncode, says in result.stderr) == (2, True), result.stderr
    assert not list(tmp_path.glob("root*"))


@needs_zstd
def test_a_chunk_without_a_checksum_is_refused(bundle):
    """A chunk without a checksum would be unpacked with the others, so it is refused."""
    (bundle / "root.tar.zst.0001").write_bytes(b"x")
    result = run([bundle / "run", "verify"])
    assert (result.returncode, "root.tar.zst.0001: not named by SHA256SUMS" in result.stderr) == (2, True)


@needs_zstd
def test_a_chunk_that_is_a_link_is_refused(bundle):
    """A chunk that is a link is refused, as its content may change between two reads."""
    chunk = bundle / "root.tar.zst.0000"
    chunk.rename(bundle / "elsewhere")
    chunk.symlink_to("elsewhere")
    result = run([bundle / "run", "verify"])
    assert (result.returncode, "root.tar.zst.0000: a link" in result.stderr) == (2, True)


def rebundle(bundle, entries):
    """The bundle with another root: (name, mode, link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode, link in entries:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if link is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            tar.addfile(entry)
    (bundle / "root.tar.zst.0000").write_bytes(
        subprocess.run(["zstd", "-qc"], input=buffer.getvalue(), capture_output=True, check=True).stdout
    )
    names = ("config", "digest", "root.tar.zst.0000", "run")
    lines = (f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (bundle / "SHA256SUMS").write_text("".join(lines))


@needs_zstd
def test_unpacked_files_have_no_special_rights(bundle, tmp_path):
    """setuid and setgid bits are removed, devices are omitted, and owners are not restored."""
    rebundle(bundle, [("usr/bin/su", 0o6755, None), ("dev/null", 0o666, None), ("tmp/x", 0o644, None)])
    assert run([bundle / "run", "unpack", tmp_path / "root"]).returncode == 0
    assert (tmp_path / "root/usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert not (tmp_path / "root/dev/null").exists()
    assert (tmp_path / "root/usr/bin/su").stat().st_uid == os.getuid()


@needs_zstd
@pytest.mark.parametrize("name", ["../evil", "link/evil"])
def test_nothing_is_unpacked_outside(name, bundle, tmp_path):
    """Neither .. nor a link leads outside."""
    rebundle(bundle, [("link", 0o777, str(tmp_path)), (name, 0o644, None)])
    run([bundle / "run", "unpack", tmp_path / "root"])
    assert not (tmp_path / "evil").exists()


def unpacked(root, links):
    (root / "usr/local/bin").mkdir(parents=True)
    add_program(root / "usr/local/bin", "loadcheck", "true")
    for name, target in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    return root


@pytest.mark.parametrize(
    "name", ["dev", "run", "etc", "etc/hosts", "home", "home/loadcheck/runs", "opt", "opt/loadcheck"]
)
def test_a_link_in_the_root_is_refused(name, tmp_path):
    """A link in the root would lead into this machine's files, so it is refused before anything is mounted or written."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = unpacked(tmp_path / "root", {name: str(elsewhere)})
    result = run([SCRIPTS / "bundle-run", "inside", root, "--version"], RUNS=tmp_path / "runs")
    assert (result.returncode, f"{root / name}: is a link" in result.stderr) == (2, True)
    assert not list(elsewhere.iterdir())


@needs_zstd
def test_an_existing_folder_is_not_unpacked_into(bundle, tmp_path):
    """An existing folder is never mixed with the unpacked files."""
    (tmp_path / "root").mkdir()
    result = run([bundle / "run", "unpack", tmp_path / "root"])
    assert (result.returncode, "is there already" in result.stderr) == (2, True)
