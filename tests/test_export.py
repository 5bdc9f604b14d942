"""`loadcheck export` and `generate` as a user starts them, with a fake of the process that holds the model."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadcheck.cli.app import run as loadcheck
from loadcheck.errors import BadInput, UnsupportedMachine
from loadcheck.exporting.child import StepFailed, run_step
from loadcheck.exporting.proof import PROOF, Comparison, comparison_findings, hashes
from loadcheck.exporting.source import ADAPTER, CONFIG
from loadcheck.plan import make_plan, plan_to_json
from loadcheck.preparing import require
from loadcheck.runs.checkpoints import publish
from loadcheck.specs.profile import load_profile
from tests.judging import only_error

KEPT = Path(__file__).parent / "training" / "run"
FOUND: dict[str, Any] = {
    "distance": 0.02, "base_distance": 3.5, "num_positions": 8, "same_tokens": True, "num_chats": 3, "device": "cpu", "versions": {"torch": "2.5.1"},
}  # fmt: skip
BASE = {"model.safetensors": "ab" * 32}
CHILD_CODE = """
import json, pathlib, shutil, sys
step, found, dies = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
asked = json.load(sys.stdin)
if step == dies:
    print("RuntimeError: out of luck", file=sys.stderr)
    sys.exit(int(sys.argv[4]))
if step == "write":
    source = pathlib.Path(asked["adapters"])
    shutil.copy(source / "adapter_model.safetensors", asked["target"])
    print(json.dumps({"base_files": json.loads(sys.argv[5])}))
if step == "prove":
    print(json.dumps(found))
if step == "answer":
    for text in ("Par", "is.\\x1b[31m"):
        print(json.dumps({"text": text}))
    said = {"answer": "Paris.", "num_prompt_tokens": 9, "num_new_tokens": 4, "ended": True, "generate_s": 2.0, "device": "cpu"}
    print(json.dumps(said))
"""


class Child:
    """The fake processes: they write the adapters and report given results. A process is started only to die; otherwise its output is enough."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = dict(FOUND)
        self.dies, self.code = "", 1
        self.is_process = False
        self.asked: list[tuple[str, bool]] = []

    def step(self, step: str, asked: dict[str, Any], on_text: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        self.asked.append((step, asked["merged"]))
        if self.is_process or step == self.dies:
            return run_step(step, asked, on_text)
        if step == "write":
            shutil.copy(Path(asked["adapters"]) / ADAPTER, asked["target"])
            return {"base_files": BASE}
        return self.found

    def command(self, step: str) -> list[str]:
        return [
            sys.executable,
            "-S",
            "-c",
            CHILD_CODE,
            step,
            json.dumps(self.found),
            self.dies,
            str(self.code),
            json.dumps(BASE),
        ]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Child:
    """A machine with all packages, and a working directory with a training, `run`."""
    found = Child()
    monkeypatch.chdir(tmp_path)
    for module in ("export", "answering"):
        monkeypatch.setattr(f"loadcheck.exporting.{module}.require", lambda names, profile: None)
        monkeypatch.setattr(f"loadcheck.exporting.{module}.run_step", found.step)
    monkeypatch.setattr("loadcheck.exporting.child.command", found.command)
    _training(tmp_path / "run")
    return found


def _training(run: Path, **config: Any) -> None:
    """A completed run folder, whose adapters have these keys in their config."""
    run.mkdir()
    for name in ("run.json", "load.log"):
        shutil.copy(KEPT / name, run)
    (run / "plan.json").write_text(json.dumps(plan_to_json(make_plan(load_profile("smollm2-135m-cpu")))))
    (run / "verdict.json").write_text('{"verdict": "pass"}')
    (run / "probe.safetensors").write_bytes(_probe("float16"))
    _adapter(run, config)


def _probe(dtype: str) -> bytes:
    header = json.dumps({"__metadata__": {"dtype": dtype}}).encode()
    return len(header).to_bytes(8, "little") + header


def _adapter(run: Path, config: dict[str, Any]) -> None:
    written = run / "written"
    written.mkdir()
    known = {"peft_type": "LORA", "r": 8, "bias": "none", "base_model_name_or_path": "/home/me/base"}
    (written / CONFIG).write_text(json.dumps(known | config))
    (written / ADAPTER).write_bytes(b"weights")
    (written / "tokenizer.json").write_text("{}")
    publish(written, run / "adapter")


def test_an_export_is_proven_and_its_proof_names_every_file(child: Child, capsys: pytest.CaptureFixture[str]):
    """Exit 0: the adapters byte for byte, the base by name rather than path, and a hash of each file."""
    child.is_process = True
    assert loadcheck(["export", "run", "out/adapters"]) == 0
    folder = Path("out/adapters")
    assert (folder / ADAPTER).read_bytes() == b"weights"
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == "smollm2-135m-instruct"
    proof = json.loads((folder / PROOF).read_text())
    assert set(proof["files"]) == {path.name for path in folder.iterdir()} - {PROOF}
    assert set(proof["files"]) == {ADAPTER, CONFIG, "probe.safetensors", "tokenizer.json"}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (proof["base_files"], proof["tolerance"], proof["rank"]) == (BASE, 0.25, 8)
    assert [path.name for path in Path("out").iterdir()] == ["adapters"]
    assert "PASS" in capsys.readouterr().out


def test_json_is_one_document(child: Child, capsys: pytest.CaptureFixture[str]):
    """Stdout is only one document, also for a verification."""
    for words in (["run", "out"], ["--verify", "out"]):
        assert loadcheck(["export", *words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["verdict"], document["export"], document["comparison"]["base_distance"]) == (
            "pass",
            "out",
            3.5,
        )


@pytest.mark.parametrize(
    ("found", "figure"),
    [({"distance": 0.3}, "logits"), ({"base_distance": 0.03}, "base"), ({"base_distance": 0.0, "distance": 0.0}, "base"),
     ({"same_tokens": False}, "template")],
)  # fmt: skip
def test_an_export_that_fails_its_proof_is_removed(
    child: Child, capsys: pytest.CaptureFixture[str], found: dict[str, Any], figure: str
):
    """Exit 1 if the export is too far from the trained model, no nearer than the base, or has another template; and no folder is left."""
    child.found |= found
    assert loadcheck(["export", "run", "out", "--json"]) == 1
    failed = [each["figure"] for each in json.loads(capsys.readouterr().out)["findings"] if each["status"] == "fail"]
    assert failed == [figure]
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_a_merged_model_has_a_larger_tolerance(child: Child):
    """A merged model is rounded once more, so its tolerance is larger."""
    child.found |= {"distance": 0.4}
    assert loadcheck(["export", "run", "out", "--merged"]) == 0
    assert json.loads(Path("out/proof.json").read_text())["tolerance"] == 0.5
    assert not Path("out", CONFIG).exists()
    assert child.asked == [("write", True), ("prove", True)]


def test_an_export_of_a_training_that_did_not_pass_says_so(child: Child):
    """The verdict on the training, or that there is none, is a note of the export."""
    for text, name in (
        ('{"verdict": "fail"}', "fail"),
        ("[]", "missing"),
        ('{"verdict": 1}', "missing"),
        ("", "missing"),
    ):
        Path("run/verdict.json").write_text(text)
        shutil.rmtree("out", ignore_errors=True)
        assert loadcheck(["export", "run", "out"]) == 0
        notes = json.loads(Path("out/proof.json").read_text())["notes"]
        assert notes == [f"the verdict on the training is {name}: see `loadcheck report`"]


def _as_link(path: Path) -> None:
    """The same content, but in a file elsewhere."""
    path.rename(path.parent.parent / f"of {path.name}")
    path.symlink_to(path.parent.parent / f"of {path.name}")


@pytest.mark.parametrize(
    "name", ["adapter/tokenizer.json", "adapter/adapter_config.json", "probe.safetensors", "plan.json", "adapter"]
)
def test_a_link_in_a_run_is_not_followed(child: Child, capsys: pytest.CaptureFixture[str], name: str):
    """A link in a run may name any file of this machine: it is not exported, whatever its content, and nothing is left."""
    _as_link(Path("run", name).absolute())
    assert loadcheck(["export", "run", "out"]) == 2
    assert only_error(capsys) and not Path("out").exists() and child.asked == []


def test_a_linked_proof_and_a_linked_target_are_refused(child: Child, capsys: pytest.CaptureFixture[str]):
    """A proof.json elsewhere proves nothing of a folder, and an export is not written to where a link points."""
    assert loadcheck(["export", "run", "out"]) == 0
    _as_link(Path("out/proof.json").absolute())
    assert loadcheck(["export", "--verify", "out"]) == 2
    assert "proof.json is missing" in only_error(capsys)
    Path("link").symlink_to("nowhere")
    assert loadcheck(["export", "run", "link"]) == 2
    assert "already exists" in only_error(capsys)


STEP_ENDS = {
    "a result, then an error": ('print("{}"); print(json.dumps({"a": 1})); sys.exit(1)', StepFailed, "exit code 1"),
    "no result": ('print("one", file=sys.stderr)', StepFailed, "its process ended without a result: one"),
    "no result, no words": ("", StepFailed, "it printed nothing"),
    "bad input": ("print(PROBLEMS); sys.exit(2)", BadInput, "base: is another"),
    "a machine that cannot": ("print(PROBLEMS); sys.exit(3)", UnsupportedMachine, "base: is another"),
    "problems of no known exit": ("print(PROBLEMS); sys.exit(1)", StepFailed, "exit code 1"),
    "a kill": ("os.kill(os.getpid(), 9)", StepFailed, "SIGKILL"),
}


@pytest.mark.parametrize("end", STEP_ENDS)
def test_a_step_has_a_result_only_if_it_ended_well(monkeypatch: pytest.MonkeyPatch, end: str):
    """Only exit code 0 with a last line is a result; else the step's own problems are raised, or how its process ended."""
    code, error, words = STEP_ENDS[end]
    problems = json.dumps({"problems": [{"where": "base", "what": "is another", "remedy": "give it"}]})
    started = [sys.executable, "-S", "-c", f"import json, os, sys; PROBLEMS = {problems!r}; sys.stdin.read(); {code}"]
    monkeypatch.setattr("loadcheck.exporting.child.command", lambda step: started)
    with pytest.raises(error, match=words) as caught:
        run_step("prove", {})
    assert type(caught.value) is error


def test_a_step_leaves_no_process(monkeypatch: pytest.MonkeyPatch):
    """A process that a step has started ends with it, even if it holds on to nothing of ours."""
    code = 'import json, subprocess; child = subprocess.Popen(["sleep", "60"], stdin=-3, stdout=-3); print(json.dumps({"pid": child.pid}))'
    monkeypatch.setattr("loadcheck.exporting.child.command", lambda step: [sys.executable, "-c", code])
    pid = run_step("prove", {})["pid"]
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_step_that_reads_nothing_is_reported(monkeypatch: pytest.MonkeyPatch):
    """A process that ends before it has read its request is reported by how it ended, not by a broken pipe."""
    monkeypatch.setattr(
        "loadcheck.exporting.child.command", lambda step: ["/bin/sh", "-c", "exec <&-; echo died >&2; exit 7"]
    )
    with pytest.raises(StepFailed, match="exit code 7: died"):
        run_step("prove", {"a": "x" * 1_000_000})


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda folder: (folder / ADAPTER).write_bytes(b"Weights"), f"{ADAPTER} was changed"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "chat_template.jinja").write_text("x"), "chat_template.jinja was added"),
        (lambda folder: (folder / "a").symlink_to(folder / ADAPTER), "a was added"),
    ],
)
def test_a_tampered_export_fails(child: Child, capsys: pytest.CaptureFixture[str], tamper: Any, words: str):
    """--verify exits 1 and does not open the model; `generate` refuses it with 2."""
    assert loadcheck(["export", "run", "out"]) == 0
    tamper(Path("out"))
    child.dies = "prove"
    capsys.readouterr()
    assert loadcheck(["export", "--verify", "out"]) == 1
    assert words in capsys.readouterr().out
    assert loadcheck(["generate", "out", "--prompt", "Hi"]) == 2


def _pickled(folder: Path) -> None:
    (folder / ADAPTER).rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_pickled, "adapter_model.bin, which is not data"),
        (lambda folder: (folder / ADAPTER).unlink(), f"holds no {ADAPTER}"),
        (lambda folder: (folder / "modeling.py").touch(), "modeling.py, which is not data"),
    ],
)
def test_pickles_and_code_are_refused_despite_a_proof(
    child: Child, capsys: pytest.CaptureFixture[str], change: Any, words: str
):
    """Pickles and code are refused even if the proof lists them: exit 2 of --verify, `generate` and `serve`, and for a run's adapters."""
    assert loadcheck(["export", "run", "out"]) == 0
    change(Path("out"))
    proof = json.loads(Path("out", PROOF).read_text())
    Path("out", PROOF).write_text(json.dumps({**proof, "files": hashes(Path("out"))}))
    shutil.move("run/adapter", "changed")
    change(Path("changed"))
    Path("changed/files.json").unlink()
    publish(Path("changed"), Path("run/adapter"))
    for command in (
        ["export", "--verify", "out"],
        ["generate", "out", "--prompt", "Hi"],
        ["serve", "out"],
        ["export", "run", "x"],
    ):
        capsys.readouterr()
        assert loadcheck(command) == 2
        assert words in only_error(capsys)


def test_a_verification_compares_again(child: Child):
    """Unchanged files do not pass with another base or another package: --verify compares again."""
    assert loadcheck(["export", "run", "out"]) == 0
    child.found |= {"distance": 2.0}
    assert loadcheck(["export", "--verify", "out"]) == 1


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["tolerance"], 1e9),
        (["rank"], 7),
        (["model"], "other"),
        (["run_verdict"], "fail"),
        (["run_verdict"], None),
        (["notes"], ["the verdict on the training is fail"]),
        (["comparison", "distance"], 5.0),
        (["comparison", "same_tokens"], False),
        (["comparison", "num_positions"], 1),
        (["comparison", "num_chats"], 99),
    ],
)
def test_an_edited_proof_fails(child: Child, capsys: pytest.CaptureFixture[str], keys: list[str], value: Any):
    """--verify compares what the proof says with itself, with the adapters and with the present comparison."""
    assert loadcheck(["export", "run", "out"]) == 0
    assert loadcheck(["export", "--verify", "out"]) == 0
    proof = json.loads(Path("out", PROOF).read_text())
    if keys[0] == "notes":
        proof["run_verdict"] = "pass"
    table = proof
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    Path("out", PROOF).write_text(json.dumps(proof))
    capsys.readouterr()
    assert loadcheck(["export", "--verify", "out"]) == 1
    assert "proof.json was edited" in " ".join(capsys.readouterr().out.split())


def test_an_unfinished_export_is_not_left(child: Child, capsys: pytest.CaptureFixture[str]):
    """A process that dies leaves no export; exit 1 gives its last words. A folder without a proof is refused with 2."""
    child.dies = "prove"
    assert loadcheck(["export", "run", "out"]) == 1
    assert "exit code 1: RuntimeError: out of luck" in only_error(capsys)
    assert [path.name for path in Path().iterdir()] == ["run"]
    Path("out").mkdir()
    assert loadcheck(["export", "--verify", "out"]) == 2
    assert "not an export, or incomplete: proof.json is missing" in only_error(capsys)


def test_an_interrupt_leaves_nothing(child: Child, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C between two processes leaves nothing."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loadcheck.exporting.export._write_rest", interrupt)
    assert loadcheck(["export", "run", "out"]) == 130
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
        ({"use_dora": True}, "use_dora: is not plain LoRA"),
        ({"peft_type": "IA3"}, "peft_type: is not plain LoRA"),
        ({"bias": "all"}, "bias: the server does not support"),
        ({"r": None}, "r: has no rank"),
        ({"r": 300}, "rank 300 is above 256, the highest that can be served"),
        ({"rank_pattern": {"q_proj": 512}}, "rank 512 is above 256"),
    ],
)
def test_unusable_adapters_are_refused(
    child: Child, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], words: str
):
    """Unusable adapters are refused with exit 2 and one line, before any process starts."""
    _training(tmp_path / "other", **config)
    child.dies = "write"
    assert loadcheck(["export", "other", "out"]) == 2
    assert words in only_error(capsys)


def test_a_rank_above_a_servers_default_is_named_with_its_flag(child: Child, tmp_path: Path):
    """A rank above the server's default is named with its flag, also in proof.json; a merged model has no rank."""
    _training(tmp_path / "other", r=17)
    assert loadcheck(["export", "other", "out"]) == loadcheck(["export", "other", "merged", "--merged"]) == 0
    notes = [json.loads(Path(name, PROOF).read_text())["notes"] for name in ("out", "merged")]
    assert notes == [["rank 17 is above a server's default: serve it with --max-lora-rank 32"], []]


def _no_adapter(run: Path) -> None:
    shutil.rmtree(run / "adapter")


def _load(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "training": None}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_adapter, "run: has no adapters: the training is completed"),
        (_load, "run: is a load, which leaves no adapters"),
        (lambda run: (run / "probe.safetensors").unlink(), "run: has no probe.safetensors"),
        (lambda run: (run / "probe.safetensors").write_bytes(b"123"), "is not a training's probe"),
        (lambda run: (run / "probe.safetensors").write_bytes(_probe("int4")), "has the dtype 'int4'"),
        (lambda run: (run / "plan.json").write_text("{"), "plan.json: cannot be read"),
        (lambda run: (run / "adapter" / ADAPTER).write_bytes(b"x"), "is not what was trained (adapter_model.safetensors"),
        (lambda run: (run / "plan.json").write_text("[]"), "plan.json: is not a JSON object"),
        (shutil.rmtree, "run: no such folder"),
    ],
)  # fmt: skip
def test_runs_without_complete_adapters_are_refused(
    child: Child, capsys: pytest.CaptureFixture[str], spoil: Any, words: str
):
    """A run without complete adapters is refused with exit 2 and one line."""
    spoil(Path("run"))
    assert loadcheck(["export", "run", "out"]) == 2
    assert words in only_error(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "DIR: is missing"),
        (["run", "run"], "run: DIR: already exists"),
        (["run", "run/run.json/out"], "cannot be created"),
        (["--verify", "run", "out"], "--verify: takes only the folder of an export"),
        (["--verify", "run"], "proof.json is missing"),
    ],
)
def test_contradictory_arguments_are_refused(
    child: Child, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    """Contradictory arguments are refused with exit 2 and one line."""
    assert loadcheck(["export", *words]) == 2
    assert message in only_error(capsys)


def test_an_invalid_proof_is_refused(child: Child, capsys: pytest.CaptureFixture[str]):
    """An invalid proof is refused with exit 2, naming file and key."""
    assert loadcheck(["export", "run", "out"]) == 0
    proof = json.loads(Path("out/proof.json").read_text())
    for text in ("{", json.dumps({**proof, "form": "gguf"}), json.dumps({**proof, "dtype": "int4"})):
        Path("out/proof.json").write_text(text)
        capsys.readouterr()
        assert loadcheck(["export", "--verify", "out"]) == 2
        assert "proof.json: " in only_error(capsys)


def test_an_answer_comes_word_by_word(child: Child, capsys: pytest.CaptureFixture[str]):
    """An answer is printed word by word, from an export or a run, and cannot send terminal codes; with --json it is one document."""
    assert loadcheck(["export", "run", "out"]) == 0
    child.is_process = True
    for source in ("out", "run"):
        capsys.readouterr()
        assert loadcheck(["generate", source, "--prompt", "What?"]) == 0
        output = capsys.readouterr()
        assert (output.out, output.err) == ("Paris.·[31m\n", "4 tokens, 2.0 tokens/s on the cpu\n")
    assert loadcheck(["generate", "out", "--prompt", "What?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "Paris."


def test_invalid_questions_are_refused(child: Child, capsys: pytest.CaptureFixture[str]):
    """A folder that is neither, or is not there, an empty question, and a killed process are refused."""
    Path("empty").mkdir()
    assert loadcheck(["generate", "empty", "--prompt", "What?"]) == 2
    assert "is neither an export" in only_error(capsys)
    assert loadcheck(["generate", "none", "--prompt", "What?"]) == 2
    assert "none: no such folder" in only_error(capsys)
    assert loadcheck(["generate", "run", "--prompt", " "]) == 2
    assert "--prompt: is empty" in only_error(capsys)
    child.dies, child.code = "answer", 3
    assert loadcheck(["generate", "run", "--prompt", "What?"]) == 1
    assert "exit code 3: RuntimeError" in only_error(capsys)


def test_without_the_packages_export_exits_3(
    child: Child, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Without the packages: exit 3, and nothing is left."""
    monkeypatch.setattr("loadcheck.exporting.export.require", require)
    monkeypatch.setattr("loadcheck.exporting.export.NEEDED", ("no_such_package",))
    assert loadcheck(["export", "run", "out"]) == 3
    assert "this environment lacks no_such_package" in only_error(capsys)
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_the_tolerance_is_inclusive():
    """The tolerance itself passes, and a base counts as farther away if it is twice as far."""
    found = Comparison(**FOUND | {"distance": 0.25, "base_distance": 0.5})
    assert {finding.status.value for finding in comparison_findings(found, 0.25)} == {"ok"}
