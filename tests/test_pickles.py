"""A local directory of weights: the engine opens only data, or the load is refused."""

import json
import os
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli, weights
from loadcheck.doctor import settings
from loadcheck.errors import BadInput
from loadcheck.machine import Machine
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.preparing import prepare
from loadcheck.specs.profile import load_profile
from loadcheck.weights.opened import unsafe
from tests.conftest import thinned
from tests.diagnoses import diagnoses

CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 2048,
}  # fmt: skip
PICKLE = b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}."
SAFE = (2).to_bytes(8, "little") + b"{}"
INDEX = "model.safetensors.index.json"
PICKLED = "pickle, which runs code when it is opened"


def directory(folder: Path, files: dict[str, bytes | str | dict[str, object]]) -> Path:
    """A model's folder; a text value is the target of a link."""
    folder.mkdir(exist_ok=True)
    for name, content in {"config.json": CONFIG, **files}.items():
        if isinstance(content, str):
            (folder / name).symlink_to(content)
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def index(*names: str) -> dict[str, object]:
    return {"weight_map": {str(number): name for number, name in enumerate(names)}}


SAFE_DIRECTORIES = {
    "one file": {"model.safetensors": SAFE},
    "shards": {INDEX: index("a.safetensors", "b.safetensors"), "a.safetensors": SAFE, "b.safetensors": SAFE},
    "shards beside a pickle": {INDEX: index("a.safetensors"), "a.safetensors": SAFE, "pytorch_model.bin": PICKLE},
    "both forms": {"model.safetensors": SAFE, "pytorch_model.bin": PICKLE, "pytorch_model.bin.index.json": index("x.bin")},
    "what a trainer left": {"model.safetensors": SAFE, "optimizer.pt": PICKLE, "training_args.bin": PICKLE},
    "a link, as the hub's cache has": {"0123abcd": SAFE, "model.safetensors": "0123abcd"},
    "safe adapters": {
        "model.safetensors": SAFE, "adapter_config.json": {}, "adapter_model.safetensors": SAFE, "adapter_model.bin": PICKLE,
    },
    "an empty auto_map": {"model.safetensors": SAFE, "config.json": {**CONFIG, "auto_map": {}}},
}  # fmt: skip
UNSAFE_DIRECTORIES: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"only {name}": ({name: PICKLE}, name)
        for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "weights.pth", "last.ckpt",
                     "consolidated.00.pth", "consolidated.00", "model.PKL", "adapter_model.bin")
    },
    "no weights": ({}, "no safetensors"),
    "an index of bin files": ({"a.safetensors": SAFE, "b.bin": PICKLE, INDEX: index("a.safetensors", "b.bin")}, "b.bin, not safetensors of this"),
    "an index that leaves": ({"a.safetensors": SAFE, INDEX: index("../a.safetensors")}, "not safetensors of this directory"),
    "an index that is none": ({"a.safetensors": SAFE, INDEX: b"\x80"}, "weight_map"),
    "an index of numbers": ({"a.safetensors": SAFE, INDEX: {"weight_map": {"a": 1}}}, "weight_map"),
    "a shard that is not there": ({"a.safetensors": SAFE, INDEX: index("a.safetensors", "b.safetensors")}, "b.safetensors"),
    "a renamed pickle": ({"model.safetensors": PICKLE * 9}, "pickle"),
    "a renamed zip": ({"model.safetensors": b"PK\x03\x04" + bytes(99)}, "zip"),
    "a link to a pickle": ({"pytorch_model.bin": PICKLE, "model.safetensors": "pytorch_model.bin"}, "model.safetensors"),
    "a link to nowhere": ({"model.safetensors": "nowhere"}, "model.safetensors"),
    "a link to a device": ({"model.safetensors": "/dev/zero"}, "not a regular file"),
    "an empty file": ({"model.safetensors": b""}, "length of a header"),
    "a header of no JSON": ({"model.safetensors": (3).to_bytes(8, "little") + b"abc"}, "JSON"),
    "a header that is a list": ({"model.safetensors": (2).to_bytes(8, "little") + b"[]"}, "JSON object"),
    "a pointer of LFS": ({"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n" + bytes(99)}, "git lfs pull"),
    "adapters as a pickle": (
        {"model.safetensors": SAFE, "adapter_config.json": {}, "adapter_model.bin": PICKLE}, "adapter_model.bin",
    ),
    "adapters as a renamed pickle": (
        {"model.safetensors": SAFE, "adapter_config.json": {}, "adapter_model.safetensors": PICKLE}, "adapter_model.safetensors: is not",
    ),
    "code in the config": ({"model.safetensors": SAFE, "config.json": {**CONFIG, "auto_map": {"AutoModel": "m.M"}}}, "code"),
    "code in the tokenizer": ({"model.safetensors": SAFE, "tokenizer_config.json": {"auto_map": {"A": ["t.T"]}}}, "code"),
}  # fmt: skip


@pytest.mark.parametrize("by_engine", [True, False], ids=["vLLM", "transformers"])
@pytest.mark.parametrize("files", SAFE_DIRECTORIES.values(), ids=SAFE_DIRECTORIES)
def test_safetensors_are_accepted_beside_other_files(files, by_engine: bool, tmp_path: Path):
    """A pickle that is never opened is accepted."""
    assert unsafe(directory(tmp_path, files), by_engine) == ()


@pytest.mark.parametrize(("name", "by_engine"), thinned([*product(UNSAFE_DIRECTORIES, [True, False])]))
def test_a_file_that_is_not_data_is_named(name: str, by_engine: bool, tmp_path: Path):
    """A file that could execute code is named, on one line, whether vLLM or transformers opens it."""
    files, says = UNSAFE_DIRECTORIES[name]
    problems = unsafe(directory(tmp_path / "model", files), by_engine)
    assert len(problems) == 1
    assert says in str(problems[0])
    assert "\n" not in str(problems[0])


def test_a_pipe_does_not_block(tmp_path: Path):
    """A pipe that nobody writes to does not block."""
    directory(tmp_path, {})
    os.mkfifo(tmp_path / "model.safetensors")
    assert "not a regular file" in str(unsafe(tmp_path, by_engine=True)[0])


@pytest.mark.parametrize(("by_engine", "refused"), [(True, False), (False, True)])
def test_each_engine_is_checked_for_what_it_opens(by_engine: bool, refused: bool, tmp_path: Path):
    """Safetensors under other names suffice for vLLM; transformers would open the pickle beside them."""
    folder = directory(tmp_path, {"consolidated.safetensors": SAFE, "pytorch_model.bin": PICKLE})
    assert bool(unsafe(folder, by_engine)) is refused


def plan_of(folder: Path) -> LoadPlan:
    return make_plan(load_profile("smollm2-135m-cpu", {"model": str(folder), "weights": "local"}))


@pytest.mark.parametrize(
    ("profile", "settings", "refused"),
    [
        ("llama31-8b-instruct-4bit", {}, False),
        ("llama31-8b-instruct-4bit", {"fast_inference": False}, True),
        ("smollm2-135m-cpu", {}, True),
    ],
)
def test_a_plan_is_checked_for_the_engine_that_it_names(tmp_path: Path, profile: str, settings: Any, refused: bool):
    """vLLM never opens a pickle beside safetensors of any name; without it, and on the CPU, transformers would."""
    folder = directory(tmp_path / "a-bnb-4bit", {"consolidated.safetensors": SAFE, "pytorch_model.bin": PICKLE})
    plan = make_plan(load_profile(profile, {**settings, "model": str(folder), "weights": "local"}))
    assert bool(weights.unsafe_local(plan)) is refused


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Weights that cannot be looked at are a problem with the folder's name, not safe ones."""

    def refuse(folder: Path, by_engine: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weights, "unsafe", refuse)
    (problem,) = weights.unsafe_local(plan_of(directory(tmp_path / "model", {"model.safetensors": SAFE})))
    assert "model: cannot be read (Permission denied)" in str(problem)


def test_a_load_refuses_it_before_and_in_the_engine(tmp_path: Path):
    """Exit 2 before anything is imported, and again in the engine if the directory has changed."""
    folder = directory(tmp_path / "model", {"pytorch_model.bin": PICKLE})
    for refuse in (lambda: prepare(plan_of(folder).profile, None), lambda: weights.prepare(plan_of(folder))):
        with pytest.raises(BadInput, match=PICKLED):
            refuse()


def test_a_mirror_must_match_its_checksums(tmp_path: Path):
    """A folder with SHA256SUMS must match them."""
    folder = directory(tmp_path / "model", {"model.safetensors": SAFE})
    assert weights.prepare(plan_of(folder)) == folder.resolve()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  model.safetensors\n")
    with pytest.raises(
        BadInput, match=r"model.safetensors: model: is not the file that SHA256SUMS lists.*copy it again"
    ):
        weights.prepare(plan_of(folder))


def test_checksums_may_be_made_again_by_the_documented_command(tmp_path: Path):
    """`sha256sum * > SHA256SUMS` in a folder that has such a file lists that file, too, which is not compared."""
    folder = directory(tmp_path / "model", {"model.safetensors": SAFE})
    listed = {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()} | {"SHA256SUMS": "0" * 64}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in listed.items()))
    assert weights.prepare(plan_of(folder)) == folder.resolve()


def test_a_changed_mirror_is_no_damaged_download(tmp_path: Path):
    """A load from a changed mirror is diagnosed with the file and its own remedy, not with another download."""
    folder = directory(tmp_path / "model", {"model.safetensors": SAFE})
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  model.safetensors\n")
    with pytest.raises(BadInput) as refused:
        weights.prepare(plan_of(folder))
    log = tmp_path / "load.log"
    log.write_text("".join(f"Error: {problem}\n" for problem in refused.value.problems))
    assert "copy it again" in diagnoses(log)["refused"].remedy


@pytest.mark.parametrize("profile", ["llama31-8b-instruct-4bit", "smollm2-135m-cpu"])
def test_doctor_names_the_pickle(profile: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """doctor reports the pickle as a finding beside all others."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setattr("loadcheck.doctor.facts.distributions", tuple)  # comparing each installed file takes a while
    folder = directory(tmp_path / "a-bnb-4bit", {"pytorch_model.bin": PICKLE})
    code = cli.run(["doctor", "--profile", profile, "--weights", "local", "--model", str(folder), "--json"])
    findings = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["check"] == "local-weights"]
    assert code in (1, 3)
    assert [each["level"] for each in findings] == ["problem"]
    assert "pytorch_model.bin" in findings[0]["what"]


def test_doctor_reports_safe_weights(tmp_path: Path):
    """doctor says that the weights are safe only for a local directory."""
    folder = directory(tmp_path, {"model.safetensors": SAFE})
    assert [each.level.value for each in settings.check_local_weights(Machine(), plan_of(folder))] == ["ok"]
    assert list(settings.check_local_weights(Machine(), make_plan(load_profile("smollm2-135m-cpu")))) == []
