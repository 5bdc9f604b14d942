"""fleet gather: no false pass, and no unnoticed missing node."""

import json
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta, timezone
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadcheck import cli
from loadcheck.errors import BadInput
from loadcheck.fleet import tars
from loadcheck.fleet.claims import Against
from loadcheck.fleet.finding import Kind
from loadcheck.fleet.folders import opened, run_folders
from loadcheck.fleet.gather import Gathering, examined, gather_folder
from loadcheck.fleet.plan import NAME, read_plan, write_plan
from loadcheck.fleet.seal import MAX_BYTES, SEAL, broken_seal, seal
from loadcheck.fleet.seen import examine
from loadcheck.fleet.tally import differing_digit
from loadcheck.fleet.verdict import FleetVerdict
from loadcheck.loading import Loaded, judge_folder
from loadcheck.show.page import fleet_page
from tests.fleets import STARTED, Node, fleet, names, nodes, plan_of
from tests.judging import only_error

COUNT = 40


def _cut(node: Node, size: int) -> None:
    log = node.path / "load.log"
    log.write_bytes(log.read_bytes()[:size])


def _run_again(node: Node, attempt: str) -> Node:
    """Another run in the same node's folder, with another log."""
    other = node.path.parent / attempt
    shutil.copytree(node.path, other)
    again = Node.__new__(Node)
    again.name, again.path = node.name, other
    again.edit(b"profiling takes 5.56", b"profiling takes 5.57")
    later = timedelta(minutes=9)
    again.change(started_at=str(STARTED + later), ended_at=str(STARTED + later + SHORT))
    return again


def _empty(node: Node) -> None:
    for file in node.path.iterdir():
        file.unlink()


def _killed(node: Node) -> None:
    _cut(node, 4000)
    (node.path / SEAL).unlink()
    node.change(outcome="running", ended_at=None, duration_s=None, exit_code=None)
    (node.path / SEAL).unlink()


def _retried(node: Node) -> None:
    _killed(_run_again(node, "0"))


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _log_of_another(node: Node) -> None:
    shutil.copy(node.path.parents[1] / "h200-0/1/load.log", node.path)
    seal(node.path)


def _edited_copy(node: Node) -> None:
    """A copy of another node's run, with this node's names and one duration edited."""
    other = Node(node.path.parents[1] / "aside", node.name, int(node.name.rpartition("-")[2]), "2")
    record = json.loads((node.path.parents[1] / "h200-0/1/run.json").read_text())
    other.change(started_at=record["started_at"], ended_at=record["ended_at"])
    shutil.rmtree(node.path)
    other.path.rename(node.path)
    shutil.rmtree(other.path.parents[1])


def _verdict_json(node: Node, verdict: str) -> None:
    (node.path / "verdict.json").write_text(json.dumps({"verdict": verdict}))
    seal(node.path)


def _moved(node: Node, **times: timedelta) -> None:
    node.change(**{name: str(STARTED + by) for name, by in times.items()})


DAY, SHORT = timedelta(days=1), timedelta(seconds=35.53)
# The faults of a node, and the kind of finding that each must give.
FAULTS: dict[str, tuple[Callable[[Node], object], set[Kind]]] = {
    "never came": (lambda n: shutil.rmtree(n.path.parent), {Kind.MISSING}),
    "an empty folder": (_empty, {Kind.MISSING}),
    "died": (_killed, {Kind.VERDICT, Kind.UNSEALED}),
    "interrupted": (lambda n: n.change(outcome="interrupted", exit_code=-2), {Kind.VERDICT}),
    "out of memory": (lambda n: n.change(outcome="killed", exit_code=-9), {Kind.VERDICT}),
    "failed, and says completed": (lambda n: n.change(exit_code=1), {Kind.VERDICT}),
    "late": (lambda n: _moved(n, started_at=3 * SHORT * 200, ended_at=3 * SHORT * 200 + SHORT), {Kind.LATE}),
    "doubled": (lambda n: _run_again(n, "2"), {Kind.DOUBLED}),
    "lost, and tried again": (_retried, {Kind.RETRIED, Kind.VERDICT, Kind.UNSEALED}),
    "another card": (lambda n: n.edit(b"NVIDIA H200", b"NVIDIA H100 80GB HBM3"), {Kind.CARD, Kind.VERDICT}),
    "another image": (lambda n: n.change(origin__image="sha256:" + "b" * 64), {Kind.IMAGE}),
    "no image": (lambda n: n.change(origin__image=None), {Kind.IMAGE}),
    "another lock": (lambda n: n.change(origin__lock_sha256="c" * 64), {Kind.LOCK}),
    "another version": (lambda n: n.change(loadcheck="0.0.9"), {Kind.CODE}),
    "another commit": (lambda n: n.change(commit="d" * 40), {Kind.CODE}),
    "no origin": (lambda n: n.change(origin=None), {Kind.IMAGE, Kind.LOCK, Kind.NODE}),
    "an edited figure": (lambda n: n.edit(b"weights took 5.3541", b"weights took 5.3641"), {Kind.VERDICT}),
    "an edited seal": (lambda n: (n.path / SEAL).write_text("0" * 64 + "  load.log\n"), {Kind.CHANGED}),
    "no seal": (lambda n: (n.path / SEAL).unlink(), {Kind.UNSEALED}),
    "a file after the seal": (lambda n: (n.path / "memory.jsonl").write_text("{}\n"), {Kind.CHANGED}),
    "half an upload: no run.json": (lambda n: (n.path / "run.json").unlink(), {Kind.UNREADABLE}),
    "half an upload: no log": (lambda n: (n.path / "load.log").unlink(), {Kind.CHANGED, Kind.VERDICT}),
    "half an upload: half the log": (lambda n: _cut(n, 9000), {Kind.CHANGED, Kind.VERDICT}),
    "a full disk": (lambda n: (n.path / "run.json").write_bytes(b""), {Kind.UNREADABLE}),
    "a full disk, and a log of nothing": (lambda n: _cut(n, 0), {Kind.CHANGED, Kind.VERDICT}),
    "a run.json that never ends": (lambda n: (n.path / "run.json").write_text("[" * 100_000), {Kind.UNREADABLE}),
    "a link for a log": (lambda n: _link(n.path / "load.log"), {Kind.UNREADABLE}),
    "a clock that is ahead": (lambda n: _moved(n, started_at=4000 * DAY, ended_at=4000 * DAY + SHORT), {Kind.CLOCK, Kind.LATE}),
    "an older run": (lambda n: _moved(n, started_at=-DAY, ended_at=SHORT - DAY), {Kind.CLOCK}),
    "a clock that was set meanwhile": (lambda n: _moved(n, started_at=SHORT, ended_at=SHORT / 2), {Kind.CLOCK}),
    "a time without a zone": (lambda n: n.change(started_at="2026-11-24T09:00:00"), {Kind.CLOCK}),
    "other settings": (lambda n: n.change(profile__adapters__random_state=1), {Kind.PROFILE}),
    "in another's folder": (lambda n: n.change(origin__node="h200-0"), {Kind.NODE}),
    "the card of another": (lambda n: n.change(machine__gpu__uuid="GPU-00000000"), {Kind.SAME_CARD}),
    "the log of another": (_log_of_another, {Kind.COPIED}),
    "the edited run of another": (_edited_copy, {Kind.COPIED}),
    "a verdict that is none": (lambda n: _verdict_json(n, "fail"), {Kind.CHANGED}),
    "a verdict.json of another sort": (lambda n: (n.path / "verdict.json").write_text("[]"), {Kind.CHANGED}),
}  # fmt: skip


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> FleetVerdict:
    """A fleet in which each fault has its own node and the other nodes pass, with one unplanned node."""
    root = tmp_path_factory.mktemp("fleet")
    made = fleet(root, COUNT)
    for node, (befall, _) in zip(made[1:], FAULTS.values(), strict=False):
        befall(node)
    Node(root, "unplanned", 99)
    return gather_folder(root, jobs=1)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_node_is_found(gathered: FleetVerdict, fault: str):
    """Each fault is reported with its kind and node, and the node does not pass."""
    node = names(COUNT)[1 + list(FAULTS).index(fault)]
    kinds = {finding.kind for finding in gathered.findings if finding.node == node}
    (status,) = (each.status for each in gathered.nodes if each.node == node)
    assert kinds == FAULTS[fault][1]
    assert status != "pass"


def test_loads_that_began_at_the_same_moment_are_no_copies(tmp_path: Path):
    """Two workers of one host may begin in the same microsecond with the same free RAM."""
    first, second = fleet(tmp_path, 2)
    record = json.loads((first.path / "run.json").read_text())
    second.change(
        started_at=record["started_at"], machine__ram_available_bytes=record["machine"]["ram_available_bytes"]
    )
    assert gather_folder(tmp_path, jobs=1).status == "pass"


def test_a_fleet_with_faults_fails_and_lists_every_node(gathered: FleetVerdict):
    """Every planned node has a line, the sound ones pass, and the fleet fails."""
    status = {each.node: each.status for each in gathered.nodes}
    sound = {"h200-0", *names(COUNT)[1 + len(FAULTS) :]}
    assert set(status) == {*names(COUNT), "unplanned"}
    assert {node for node, each in status.items() if each == "pass"} == sound
    assert [each.kind for each in gathered.findings if each.node == "unplanned"] == [Kind.UNPLANNED]
    assert (gathered.status, gathered.exit_code) == ("fail", 1)
    assert gathered.counts["missing"] == 2 and gathered.counts["retried"] == 1


def test_deviating_nodes_are_named_with_the_digit(gathered: FleetVerdict):
    """A value that is not the card's usual one is reported with its nodes and the digit that differs."""
    found = {(each.figure, each.measured): each for each in gathered.tally.deviations()}
    weights = found["weights_gib", "5.3641"]
    assert (weights.usual, weights.count, weights.digit, weights.predicted) == (
        "5.3541",
        1,
        "the 2nd decimal",
        "5.3541",
    )


@pytest.mark.parametrize(
    ("a", "b", "digit"),
    [("5.3541", "5.3542", "the 4th decimal"), ("39,083", "39,183", "the 3rd digit"), ("0.6", "0.60", "the 2nd decimal"),
     ("nf4", "16bit", ""), ("9", "10", ""), ("5.35", "5.35", "")],
)  # fmt: skip
def test_the_first_differing_digit(a: str, b: str, digit: str):
    """The first digit where two numbers differ; none for words and for numbers of different lengths."""
    assert differing_digit(a, b) == digit


def test_a_sound_fleet_passes_from_a_folder_or_a_tar(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From a folder, from its tar, and judged in several processes: the same passing verdict, with its cost."""
    fleet(tmp_path / "a", 3)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a", "results")
    documents = []
    for name in ("a", "a.tar.gz"):
        code = cli.run(["fleet", "gather", str(tmp_path / name), "--json"])
        documents.append(json.loads(capsys.readouterr().out))
        assert code == 0, documents
    assert documents[0]["verdict"] == "pass" and documents[0]["counts"] == {"pass": 3}
    assert documents[0]["cards"][0]["cost_per_verified_load"] == pytest.approx(35.53 / 3600 * 3.6, abs=1e-6)
    assert documents[0]["cheapest_card"] == "H200"
    assert {each["figure"]: each["measured"] for each in documents[0]["figures"]}["weights_gib"] == "5.3541"
    assert documents[0]["figures"] == documents[1]["figures"]


def test_a_tar_is_read_from_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tar is read from stdin once, in order, as `kubectl exec … tar c` or an object store writes it."""
    fleet(tmp_path / "a", 2)
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(tmp_path / "a", ".")
    content.seek(0)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(content))
    assert cli.run(["fleet", "gather", "-"]) == 0


def test_many_nodes_are_judged_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Several processes give the same verdict as one, in the same order."""
    fleet(tmp_path, 6)
    monkeypatch.setattr("loadcheck.fleet.gather.ALONE", 2)
    one, two = (gather_folder(tmp_path, jobs=jobs).to_json() for jobs in (1, 2))
    assert one == two and one["counts"] == {"pass": 6}


def test_a_killed_judging_process_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If a judging process is killed: exit code 3, and what to do, instead of half a verdict."""

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs: int, *_: object) -> None:
            super().__init__(jobs)

        def map(self, *_: Any, **__: Any) -> Any:
            raise BrokenProcessPool

    fleet(tmp_path, 2)
    monkeypatch.setattr("loadcheck.fleet.gather.ALONE", 1)
    monkeypatch.setattr("loadcheck.fleet.gather.ProcessPoolExecutor", Pool)
    assert cli.run(["fleet", "gather", str(tmp_path), "--jobs", "2"]) == 3


def test_without_a_plan_nodes_are_compared_with_each_other(tmp_path: Path):
    """Without a plan no node can be missing, but all need one image and one lock."""
    (*_, last) = nodes(tmp_path, 3)
    assert gather_folder(tmp_path).passed
    last.change(origin__image="sha256:" + "b" * 64)
    verdict = gather_folder(tmp_path)
    assert [(each.node, each.kind) for each in verdict.findings] == [("h200-2", Kind.IMAGE)]


@given(name=st.sampled_from(("run.json", "load.log")), at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_no_byte_of_a_sealed_run_changes_unnoticed(
    name: str, at: float, byte: int, tmp_path_factory: pytest.TempPathFactory
):
    """With any byte changed the run does not pass, the node is named, and nothing crashes."""
    root = tmp_path_factory.mktemp("sealed")
    made = Node(root, "h200-0", 0)
    content = bytearray((made.path / name).read_bytes())
    position = int(at * len(content))
    same, content[position] = content[position] == byte, byte
    (made.path / name).write_bytes(content)
    seen = examine(root, "h200-0/1", Against.of(plan_of(["h200-0"]), datetime.now(timezone.utc)))
    assert seen.passed is same and seen.node == "h200-0"


INVALID = f"{SEAL} is invalid: it has an invalid or a duplicate line, or more than {MAX_BYTES} bytes"
SEALS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "as it was": (lambda folder: None, []),
    "as sha256sum writes it": (lambda folder: _sealed(folder, lambda text: text.replace("  ", " *./")), []),
    "a changed file": (
        lambda folder: (folder / "load.log").write_text("b"),
        ["load.log was changed after it was sealed"],
    ),
    "a missing file": (lambda folder: (folder / "load.log").unlink(), ["load.log is missing"]),
    "a new file": (lambda folder: (folder / "verdict.json").touch(), [f"verdict.json is not in {SEAL}"]),
    "a foreign line": (lambda folder: _sealed(folder, lambda text: text + "x\n"), [INVALID]),
    "a line twice": (lambda folder: _sealed(folder, lambda text: text + text.splitlines()[0] + "\n"), [INVALID]),
    "too long": (lambda folder: _sealed(folder, lambda text: text + f"{'0' * 64}  {'x' * MAX_BYTES}\n"), [INVALID]),
    "the longest": (lambda folder: _sealed(folder, lambda text: text + _line(MAX_BYTES - len(text))), []),
}


def _line(length: int) -> str:
    return f"{'0' * 64}  ".ljust(length - 1, "x") + "\n"


def _sealed(folder: Path, change: Callable[[str], str]) -> None:
    (folder / SEAL).write_text(change((folder / SEAL).read_text()))


@pytest.mark.parametrize("change", SEALS)
def test_each_difference_from_a_seal_is_named(tmp_path: Path, change: str):
    """A changed, a missing and a new file are named, and so is a seal that is invalid."""
    for name in ("run.json", "load.log"):
        (tmp_path / name).write_text("a")
    seal(tmp_path)
    befall, words = SEALS[change]
    befall(tmp_path)
    assert list(broken_seal(tmp_path)) == words


def test_a_tar_cannot_write_outside(tmp_path: Path):
    """Only files of runs are taken from a tar, and none through a link or to a path outside."""
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("../run.json", "/abs/run.json", "a/../../run.json", "b/other.txt", "c/run.json"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, BytesIO(b"{}"))
        link = tarfile.TarInfo("d/run.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with opened(file) as root:
        assert list(run_folders(root)) == ["c"]
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["run.json"]
    assert not (tmp_path / "run.json").exists()


def _tar_of(path: Path, members: dict[str, bytes | None]) -> None:
    """A tar of these files; None is a link."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            member.size = len(content or b"")
            archive.addfile(member, BytesIO(content or b""))


def test_a_tar_is_whole_only_with_its_end(tmp_path: Path):
    """A tar that was cut off between two files is refused, although all of its files can be read; one block of its end is enough."""
    file, end = tmp_path / "a.tar", 2 * tarfile.BLOCKSIZE
    _tar_of(file, {"a/run.json": b"{}"})
    content = file.read_bytes()
    for length in (end, end + 1, end + tarfile.BLOCKSIZE - 1):
        file.write_bytes(content[:length])
        with pytest.raises(BadInput, match="neither a folder nor a whole tar"), opened(file):
            pass
    file.write_bytes(content[: end + tarfile.BLOCKSIZE])
    with opened(file) as root:
        assert list(run_folders(root)) == ["a"]


@pytest.mark.parametrize(
    ("name", "content"), [(NAME, None), (f"a/{NAME}", None), (f"../{NAME}", b"{}"), (f"/{NAME}", b"{}")]
)
def test_a_plan_elsewhere_is_not_skipped(tmp_path: Path, name: str, content: bytes | None):
    """A tar whose plan is a link or leads out of it is refused: without its plan a fleet would be judged by fewer checks."""
    _tar_of(tmp_path / "a.tar", {"a/run.json": b"{}", name: content})
    with pytest.raises(BadInput, match="so the plan is unknown"), opened(tmp_path / "a.tar"):
        pass


def test_a_large_file_is_unpacked_to_its_limit(tmp_path: Path):
    """Of a file above the limit one byte more is unpacked, so that its reader refuses it, and the disk is not filled."""
    _tar_of(tmp_path / "a.tar", {"a/run.json": b"x" * 100, "b/run.json": b"x" * 5})
    tars.unpack(tmp_path / "a.tar", tmp_path, frozenset({"run.json"}), 5)
    assert [(tmp_path / name / "run.json").stat().st_size for name in "ab"] == [6, 5]


def test_no_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A folder that is not there exits 2, and is named."""
    assert cli.run(["fleet", "gather", str(tmp_path / "none")]) == 2
    assert "none: no such folder or tar" in only_error(capsys)


@pytest.mark.parametrize("content", [b"", b"no tar", None])
def test_an_input_that_is_no_fleet_is_refused(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
):
    """An empty file, another file and a folder without runs exit 2 with an error."""
    target = tmp_path / "x"
    if content is None:
        target.mkdir()
    else:
        target.write_bytes(content)
    assert cli.run(["fleet", "gather", str(target)]) == 2
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 2}', "[" * 100_000])
def test_an_unreadable_plan_is_refused(tmp_path: Path, text: str):
    """An unreadable plan is refused."""
    fleet(tmp_path, 1)
    (tmp_path / NAME).write_text(text)
    assert cli.run(["fleet", "gather", str(tmp_path)]) == 2


def test_a_plan_is_read_as_it_was_written(tmp_path: Path):
    """A plan is read as it was written, and names no node twice."""
    plan = plan_of(names(2))
    write_plan(plan, tmp_path / NAME)
    assert read_plan(tmp_path / NAME) == plan
    with pytest.raises(ValueError, match="two nodes are called h200-0"):
        plan_of(["h200-0", "h200-0"])


def test_the_printed_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The table shows predicted beside measured, each finding names its node and remedy, and the last line is the verdict."""
    made = fleet(tmp_path, 2)
    shutil.rmtree(made[1].path)
    assert cli.run(["fleet", "gather", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert any(line.split() == ["weights_gib", "5.3541", "5.3541", "1"] for line in out.splitlines())
    assert "FAIL h200-1: missing: it has no run; H200 was planned" in out
    assert out.splitlines()[-1].startswith(
        "FAIL: 1 of 2 nodes pass, 1 missing, the cheapest card that holds it is H200"
    )


def test_the_page_of_a_fleet(tmp_path: Path, gathered: FleetVerdict):
    """The page shows faults by node first, then cards, figures with deviating nodes, and all nodes; it has no script, and markup is text."""
    made = fleet(tmp_path / "runs", 2)
    made[1].change(outcome="failed", reason="<script>alert(1)</script>")
    page = tmp_path / "fleet.html"
    assert cli.run(["fleet", "gather", str(tmp_path / "runs"), "--html", str(page)]) == 1
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert "Figures on H200" in text and '<td class="num" data-l="most print">5.3541</td>' in text
    assert text.index("What is wrong") < text.index("Cards") < text.index("Nodes")
    whole = fleet_page("runs", gathered, "loadcheck fleet gather runs")
    assert all(f'<td class="name">{node.node}</td>' in whole for node in gathered.nodes) and "the 2nd decimal" in whole


def test_a_ci_report_has_a_test_per_node(tmp_path: Path):
    """In CTRF and JUnit each node is a test; a missing one fails with the reason."""
    made = fleet(tmp_path / "runs", 2)
    shutil.rmtree(made[1].path)
    files = [tmp_path / name for name in ("ctrf.json", "junit.xml")]
    assert cli.run(["fleet", "gather", str(tmp_path / "runs"), "--ctrf", str(files[0]), "--junit", str(files[1])]) == 1
    tests = {each["name"]: each for each in json.loads(files[0].read_text())["results"]["tests"]}
    assert [tests[name]["status"] for name in ("h200-0", "h200-1")] == ["passed", "failed"]
    assert "it has no run" in tests["h200-1"]["message"] and 'failures="1"' in files[1].read_text()


def test_little_is_kept_of_each_node(tmp_path: Path):
    """No log, evidence or single figure of a node is kept, so each node adds only a few hundred bytes."""
    fleet(tmp_path, 1)
    (seen,) = examined(tmp_path, ["h200-0/1"], Against(datetime.now(timezone.utc)))
    gathering = Gathering()
    gathering.add(seen)
    (attempts,) = gathering.nodes.values()
    assert attempts.last is not None and attempts.last.figures == ()


def test_an_unreadable_folder_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder that cannot be opened is a finding of its node, and the others are judged."""
    fleet(tmp_path, 2)

    def judge(path: Path) -> Loaded:
        if path.parent.name == "h200-0":
            raise PermissionError(13, "Permission denied")
        return judge_folder(path)

    monkeypatch.setattr("loadcheck.fleet.seen.judge_folder", judge)
    verdict = gather_folder(tmp_path)
    assert verdict.counts == {"pass": 1, "fail": 1}
    assert [each.kind for each in verdict.findings] == [Kind.UNREADABLE]
