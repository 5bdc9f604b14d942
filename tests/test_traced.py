"""The audit hook of the traced loads: which events it records, by whom, and which of them are explained."""

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.traced import Allowed, AuditHook, TracedEvent, unexplained
from tests.traces import ALLOWED


def seen(event: str, *arguments: object) -> list[tuple[str, str]]:
    watch = AuditHook()
    watch(event, arguments)
    return [(each.kind, each.what) for each in watch.seen]


@pytest.mark.parametrize(
    ("event", "arguments", "expected"),
    [
        ("open", ("/a", "r", os.O_RDONLY), []),
        ("open", ("/a", "w", os.O_WRONLY | os.O_CREAT), [("write", "/a")]),
        ("open", (b"/a", None, os.O_RDWR), [("write", "/a")]),
        ("open", ("/dev/null", "w", os.O_WRONLY), []),
        ("open", (3, "w", os.O_WRONLY), []),
        ("os.mkdir", ("/a", 0o700, -1), [("write", "/a")]),
        ("os.rename", ("/a", "/b", -1, -1), [("write", "/b")]),
        ("os.symlink", ("to", "/b", -1), [("write", "/b")]),
        ("os.truncate", ("/a", 0), [("write", "/a")]),
        ("socket.connect", (None, ("1.2.3.4", 80)), [("network", "connect ('1.2.3.4', 80)")]),
        ("socket.getaddrinfo", ("example.org", 80, 0, 0, 0), [("network", "getaddrinfo example.org")]),
        ("subprocess.Popen", ("ls", ["ls", b"-l"], None, None), [("process", "ls -l")]),
        ("os.system", (b"ldconfig /usr",), [("process", "ldconfig /usr")]),
        ("os.fork", (), [("process", "os.fork")]),
        ("pickle.find_class", ("os", "system"), [("pickle", "os.system")]),
        ("exec", (compile("1", "/elsewhere/remote.py", "exec"),), [("code", "/elsewhere/remote.py")]),
        ("exec", (compile("1", str(ROOT / "src" / "a.py"), "exec"),), []),
        ("exec", (compile("1", "<string>", "exec"),), []),
        ("import", ("os", None, None, None, None), []),
    ],
)
def test_which_events_are_recorded(event: str, arguments: tuple, expected: list):
    """Changes, network, processes, pickles and foreign code are recorded; reading is not."""
    assert seen(event, *arguments) == expected


def test_a_path_relative_to_a_descriptor_is_resolved(tmp_path: Path):
    """A path relative to an open folder is resolved, as when shutil.rmtree removes files."""
    folder = os.open(tmp_path, os.O_RDONLY)
    assert seen("os.remove", "a", folder) == [("write", str(tmp_path.resolve() / "a"))]
    assert seen("os.chmod", folder, 0o600, -1) == [("write", str(tmp_path.resolve()))]
    os.close(folder)


def test_only_named_events_are_explained():
    """An event is explained by kind, file, target and time: some imports come late, but imports may not do what a load may."""
    entry = Allowed("write", "pkg/*", "{HOME}/.cache*", "why")
    places = {"HOME": "/h"}
    known = TracedEvent("write", "pkg/a.py", "/h/.cache/x", "")
    others = [
        TracedEvent("process", "pkg/a.py", "/h/.cache/x", ""),
        TracedEvent("write", "other/a.py", "/h/.cache/x", ""),
        TracedEvent("write", "pkg/a.py", "/etc/x", ""),
    ]
    late = TracedEvent("write", "pkg/a.py", "/h/.cache/x", "imported")
    assert list(unexplained([known, late], (entry,), places)) == []
    assert len(list(unexplained([*others, *others], (entry,), places))) == len(others)
    of_loads = Allowed("write", "pkg/*", "{HOME}/.cache*", "why", when="load")
    assert list(unexplained([known, late], (of_loads,), places)) == [
        "write by pkg/a.py after the start: {HOME}/.cache/x"
    ]


def test_the_imports_explain_no_pickle_and_no_connection():
    """No entry for the imports allows a pickle or a connection, and SECURITY.md names each file with an entry."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    imports = [entry for entry in ALLOWED if entry.when != "load" and entry.by != "*"]
    assert {entry.kind for entry in ALLOWED} == {"write", "network", "process", "code"}
    assert {entry.what for entry in ALLOWED if entry.kind == "network"} == {"bind ('::1', 0)", "bind ('', 0)"}
    assert [entry.by for entry in imports if f"`{entry.by.removesuffix('backends/nvidia/driver.py')}" not in text] == []
