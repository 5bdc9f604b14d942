"""fleet gather on hostile folders and tars: nothing hangs, nothing is lost, and no node passes because of it."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.fleet import tars
from loadcheck.fleet.finding import Kind
from loadcheck.fleet.folders import opened
from loadcheck.fleet.gather import gather_folder
from loadcheck.fleet.plan import NAME, read_plan
from loadcheck.fleet.seal import SEAL, seal
from loadcheck.fleet.seen import MAX_WORDS
from loadcheck.fleet.verdict import FleetVerdict
from loadcheck.loading import Loaded, judge_folder
from tests.fleets import STARTED, Node, fleet, names

DEPTH = 2200
OLDEST, LAST = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"
NOT_STARTED = "20261124T090000.000000Z"


def _pipe(name: str) -> Callable[[Node], None]:
    """A pipe in place of a file, or beside the files: opening it would block forever."""

    def apply_to(node: Node) -> None:
        (node.path / name).unlink(missing_ok=True)
        os.mkfifo(node.path / name)

    return apply_to


def _folder(node: Node) -> None:
    (node.path / "load.log").unlink()
    (node.path / "load.log").mkdir()


def _sparse_file(name: str, size: int = 1 << 40) -> Callable[[Node], None]:
    """A file as long as a disk, without content."""

    def apply_to(node: Node) -> None:
        with (node.path / name).open("ab") as file:
            file.truncate(size)

    return apply_to


def _text(node: Node, old: str, new: str) -> None:
    """Replace text of run.json, also by what no JSON writer writes."""
    text = (node.path / "run.json").read_text()
    assert old in text
    (node.path / "run.json").write_text(text.replace(old, new))
    seal(node.path)


def _of(path: Path) -> Node:
    node = Node.__new__(Node)
    node.path = path
    return node


def _failed_beside(node: Node, folder: Path) -> None:
    shutil.copytree(node.path, node.path.parent / "copy")
    (node.path.parent / "copy").rename(folder)
    _of(folder).change(outcome="failed", exit_code=1)


def _log_of_another(node: Node, old: bytes, new: bytes) -> None:
    log = (node.path.parents[1] / "h200-0/1/load.log").read_bytes()
    (node.path / "load.log").write_bytes(log.replace(old, new) + new)
    seal(node.path)


def _renamed(name: str) -> Callable[[Node], object]:
    return lambda node: node.path.parent.rename(node.path.parents[1] / name)


def _linked(node: Node) -> None:
    shutil.rmtree(node.path)
    node.path.symlink_to("../h200-0/1")


def _also_refused(node: Node) -> None:
    (node.path / "refused.json").write_text('{"why": ["the driver"]}')


# The faults of a node, and the kind of finding that each must give.
FAULTS: dict[str, tuple[Callable[[Node], object], set[Kind]]] = {
    "a pipe for run.json": (_pipe("run.json"), {Kind.UNREADABLE}),
    "a pipe for its log": (_pipe("load.log"), {Kind.UNREADABLE}),
    "a pipe for its seal": (_pipe(SEAL), {Kind.UNREADABLE}),
    "a pipe beside": (_pipe("other"), {Kind.UNREADABLE}),
    "a link to itself": (lambda n: (n.path / "loop").symlink_to(".."), {Kind.UNREADABLE}),
    "a log without an end": (_sparse_file("load.log"), {Kind.UNREADABLE}),
    "samples without an end": (_sparse_file("memory.jsonl"), {Kind.UNREADABLE}),
    "a seal without an end": (_sparse_file(SEAL), {Kind.CHANGED}),
    "half a seal": (lambda n: (n.path / SEAL).write_text((n.path / SEAL).read_text()[:90]), {Kind.CHANGED}),
    "an empty seal": (lambda n: (n.path / SEAL).write_text(""), {Kind.CHANGED}),
    "a seal that says two sums": (lambda n: (n.path / SEAL).write_text("0" * 64 + "  run.json\n" + (n.path / SEAL).read_text()), {Kind.CHANGED}),
    "a folder for its log": (_folder, {Kind.UNREADABLE}),
    "begun and not begun": (_also_refused, {Kind.CHANGED}),
    "the year 1": (lambda n: n.change(started_at=OLDEST, ended_at=OLDEST), {Kind.CLOCK}),
    "the year 9999": (lambda n: n.change(started_at=LAST, ended_at=LAST), {Kind.CLOCK}),
    "a zone by its name": (lambda n: n.change(started_at="2026-11-24 09:00:00 CET"), {Kind.CLOCK}),
    "ended, and never says when": (lambda n: n.change(ended_at=None), {Kind.CLOCK}),
    "ended, and not how long": (lambda n: n.change(duration_s=None, ended_at=str(STARTED - timedelta(minutes=4))), {Kind.CLOCK}),
    "no exit code": (lambda n: n.change(exit_code=None), {Kind.VERDICT}),
    "another schema": (lambda n: n.change(schema=2), {Kind.UNREADABLE}),
    "no number": (lambda n: _text(n, '"duration_s": 35.53', '"duration_s": NaN'), {Kind.UNREADABLE}),
    "a number without an end": (lambda n: _text(n, '"exit_code": 0', '"exit_code": ' + "9" * 6000), {Kind.UNREADABLE}),
    "a key that is said twice": (lambda n: _text(n, '"outcome": "completed"', '"outcome": "completed", "outcome": "failed"'), {Kind.VERDICT}),
    "a negative size": (lambda n: n.edit(b"weights took 5.3541", b"weights took -5.3541"), {Kind.VERDICT}),
    "a profile of nothing": (lambda n: n.change(profile={}), {Kind.UNREADABLE}),
    "another card in run.json": (lambda n: n.change(machine__gpu__name="NVIDIA H100 80GB HBM3"), {Kind.VERDICT}),
    "no card in run.json": (lambda n: n.change(machine__gpu=None), {Kind.CARD}),
    "a card without a UUID": (lambda n: n.change(machine__gpu__uuid=None), {Kind.CARD}),
    "the card of another, in capitals": (lambda n: n.change(machine__gpu__uuid=" GPU-00000000".upper()), {Kind.SAME_CARD}),
    "the log of another, ended otherwise": (lambda n: _log_of_another(n, b"\n", b"\r\n"), {Kind.COPIED}),
    "a pass after a failure": (lambda n: _failed_beside(n, n.path.parent / "0"), {Kind.DOUBLED, Kind.VERDICT}),
    "a failure inside the pass": (lambda n: _failed_beside(n, n.path / "2"), {Kind.DOUBLED, Kind.VERDICT}),
    "a try that left nothing": (lambda n: (n.path.parent / NOT_STARTED).mkdir(), {Kind.RETRIED, Kind.UNREADABLE}),
    "another letter case": (_renamed("H200-34"), {Kind.MISSING}),
    "another hyphen": (_renamed("h200\u201035"), {Kind.MISSING}),
    "a name of no UTF-8": (_renamed("h200-36\udcff"), {Kind.MISSING}),
    "a name that moves the terminal": (_renamed("h200-37\x1b[2K\nPASS"), {Kind.MISSING}),
    "a link to another's run": (_linked, {Kind.MISSING}),
    "a run of it for another fleet": (lambda n: n.change(origin__fleet="test-20261124T085901Z"), {Kind.NODE}),
}  # fmt: skip
COUNT = len(FAULTS) + 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet in which each fault has its own node, and three nodes are sound."""
    folder = tmp_path_factory.mktemp("hostile")
    for node, (apply_to, _) in zip(fleet(folder, COUNT)[1:], FAULTS.values(), strict=False):
        apply_to(node)
    return folder


@pytest.fixture(scope="module")
def gathered(root: Path) -> FleetVerdict:
    return gather_folder(root, jobs=1)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_node_is_found(gathered: FleetVerdict, fault: str):
    """Each fault is reported with its kind and node, and the node does not pass."""
    node = names(COUNT)[1 + list(FAULTS).index(fault)]
    (status,) = (each.status for each in gathered.nodes if each.node == node)
    assert {finding.kind for finding in gathered.findings if finding.node == node} == FAULTS[fault][1]
    assert status != "pass"


def test_a_run_for_this_plan_is_accepted(tmp_path: Path):
    """A run that names this plan is accepted, and so is one that names none."""
    made = fleet(tmp_path, 2)
    made[0].change(origin__fleet=read_plan(tmp_path / NAME).identity)
    assert gather_folder(tmp_path).passed


def test_no_other_node_fails(gathered: FleetVerdict):
    """The sound nodes pass, and the four with another name are reported as such."""
    sound = {"h200-0", *names(COUNT)[1 + len(FAULTS) :]}
    assert {node.node for node in gathered.nodes if node.status == "pass"} == sound
    assert len({each.node for each in gathered.findings if each.kind is Kind.UNPLANNED}) == 4


def test_a_nodes_name_is_shown_as_text(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A folder's name adds no line or code to the table, the page, JUnit, CTRF and the summary."""
    files = [tmp_path / name for name in ("page.html", "junit.xml", "ctrf.json", "summary.md")]
    flags = [
        word
        for pair in zip(("--html", "--junit", "--ctrf", "--summary"), map(str, files), strict=True)
        for word in pair
    ]
    assert cli.run(["fleet", "gather", str(root), "--jobs", "1", *flags]) == 1
    out, err = capsys.readouterr()
    written = [out, err, *(file.read_text() for file in files)]
    assert not any("\x1b" in text or any(line.startswith("PASS") for line in text.splitlines()) for text in written)
    assert json.loads(files[2].read_text())["results"]["summary"]["passed"] == 3


def test_a_nodes_text_is_limited(tmp_path: Path):
    """All nodes are held in memory, so what each may say is limited."""
    made = fleet(tmp_path, 1)
    made[0].change(outcome="failed", exit_code=1, reason="x" * 1_000_000, profile__generation__prompt="y" * 1_000_000)
    findings = gather_folder(tmp_path).findings
    assert len(findings) == 2 and all(len(finding.what) <= MAX_WORDS + 1 for finding in findings)


def test_an_error_of_ours_affects_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If judging one folder raises, the other nodes are judged."""
    fleet(tmp_path, 2)

    def judge(path: Path) -> Loaded:
        if path.parent.name == "h200-0":
            raise KeyError("of ours")
        return judge_folder(path)

    monkeypatch.setattr("loadcheck.fleet.seen.judge_folder", judge)
    (finding,) = gather_folder(tmp_path).findings
    assert (finding.kind, finding.what) == (Kind.UNREADABLE, "loadcheck itself failed at it: KeyError: 'of ours'")


@contextmanager
def _deep(folder: Path) -> Iterator[None]:
    """Nested folders deeper than the longest path, made and removed relative to their parents."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        for _ in range(DEPTH):
            os.mkdir("d")  # noqa: PTH102 - a path from the root would be too long
            os.chdir("d")
        os.fchdir(here)
        yield
        os.chdir(folder)
        for _ in range(DEPTH):
            os.chdir("d")
        for _ in range(DEPTH):
            os.chdir("..")
            os.rmdir("d")  # noqa: PTH106
    finally:
        os.fchdir(here)
        os.close(here)


def test_endlessly_nested_folders(tmp_path: Path):
    """Folders as deep as the system allows: what cannot be opened is reported, and nothing is lost."""
    fleet(tmp_path, 2)
    with _deep(tmp_path / "h200-1"):
        verdict = gather_folder(tmp_path)
    assert [(node.node, node.status) for node in verdict.nodes] == [("h200-0", "pass"), ("h200-1", "retried")]
    assert "File name too long" in verdict.findings[0].what


@pytest.mark.parametrize("kind", ["pipe", "dangling", "folder"])
def test_a_plan_that_is_no_regular_file_exits_2(tmp_path: Path, kind: str):
    """A plan that is no regular file exits 2 without blocking. If it were ignored, no node could be missing."""
    fleet(tmp_path, 2)
    plan = tmp_path / NAME
    plan.unlink()
    if kind == "pipe":
        os.mkfifo(plan)
    elif kind == "dangling":
        plan.symlink_to("nowhere")
    else:
        plan.mkdir()
    assert cli.run(["fleet", "gather", str(tmp_path)]) == 2


# ---------------------------------------------------------------------------------------------------------------------- tars


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tar of a fleet of four nodes."""
    folder = tmp_path_factory.mktemp("packed")
    fleet(folder, 4)
    return _tar(lambda archive: archive.add(folder, "results"))


def _tar(fill: Callable[[tarfile.TarFile], object]) -> bytes:
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        fill(archive)
    return content.getvalue()


def _adding(*names: str) -> Callable[[tarfile.TarFile], None]:
    def fill(archive: tarfile.TarFile) -> None:
        for name in names:
            _add(archive, name)

    return fill


def _without_header(tar: bytes) -> bytes:
    at = tar.index(b"results/h200-2/1/run.json")
    return tar[:at] + b"x" * 512 + tar[at + 512 :]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda tar: tar[: len(tar) // 2 // 512 * 512],
    "no end": lambda tar: tar.rstrip(b"\0"),
    "no header where one should be": _without_header,
    "two in one": lambda tar: tar + tar,
    "two in one, packed": lambda tar: gzip.compress(tar) * 2,
    "something behind": lambda tar: tar + b"x" * 600,
    "gz, half": lambda tar: gzip.compress(tar)[:-2000],
    "gz, without its sum": lambda tar: gzip.compress(tar)[:-8],
    "gz, a bit": lambda tar: _flipped(gzip.compress(tar)),
    "bz2, half": lambda tar: bz2.compress(tar)[:-2000],
    "bz2, a bit": lambda tar: _flipped(bz2.compress(tar)),
    "xz, half": lambda tar: lzma.compress(tar)[:-2000],
    "xz, a bit": lambda tar: _flipped(lzma.compress(tar)),
    "a run twice": lambda tar: _tar(_adding("a/run.json", "./a//run.json")),
    "a plan that is a link": lambda tar: _tar(lambda archive: _add(archive, f"a/{NAME}", tarfile.SYMTYPE)),
    "a plan outside": lambda tar: _tar(_adding(f"../{NAME}")),
    "a file that is a folder, too": lambda tar: _tar(_adding("run.json", "run.json/load.log")),
}  # fmt: skip


def _add(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    archive.addfile(member)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tar_exits_2(tmp_path: Path, packed: bytes, damage: str, capsys: pytest.CaptureFixture[str]):  # fmt: skip
    """A damaged tar exits 2 with an error: without a plan nobody would miss the lost part."""
    file = tmp_path / "fleet.tar"
    file.write_bytes(DAMAGE[damage](packed))
    assert cli.run(["fleet", "gather", str(file)]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_intact_tar_is_read_in_any_compression(tmp_path: Path, packed: bytes, pack: Callable[[bytes], bytes]):
    """An intact tar is read plain, and packed by gzip, bzip2 and xz."""
    file = tmp_path / "fleet.tar"
    file.write_bytes(pack(packed))
    assert cli.run(["fleet", "gather", str(file)]) == 0


def test_of_an_endless_file_only_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of an endless file one byte above the limit is taken: the disk is not filled, and the node fails."""
    made = fleet(tmp_path / "a", 2)
    monkeypatch.setattr("loadcheck.fleet.folders.MAX_FILE_BYTES", limit := 100_000)
    monkeypatch.setattr("loadcheck.fleet.seal.MAX_FILE_BYTES", limit)
    _sparse_file("load.log", 10 * limit)(made[1])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a", "a")
    with opened(tmp_path / "a.tar") as folder:
        assert (folder / "a" / "h200-1" / "1" / "load.log").stat().st_size == limit + 1
        verdict = gather_folder(folder)
    assert [(each.node, each.kind) for each in verdict.findings] == [("h200-1", Kind.UNREADABLE)]


def test_a_tar_may_end_with_any_number_of_zeros(tmp_path: Path):
    """A tar may end with any number of zeros, as archives are padded to the tape's block."""
    file = tmp_path / "fleet.tar"
    file.write_bytes(_tar(_adding("a/run.json")) + bytes(100_000))
    tars.unpack(file, tmp_path / "into", None, 10)
    assert [path.name for path in (tmp_path / "into").rglob("*.json")] == ["run.json"]
