"""Files that replace others: whole or not at all, for their owner alone, and never through a link."""

import os
import stat
from pathlib import Path

import pytest

from loadcheck.runs.private import make_private, write_whole


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask():
    """Without a umask a new file is open to everybody unless its mode is set."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_file_is_its_owners_and_an_old_one_keeps_its_mode(tmp_path: Path, open_umask: None):
    """A new file gets the mode 0600, whatever the umask; one that is written over keeps the mode that its owner gave it."""
    write_whole(tmp_path / "a", "one")
    assert _mode(tmp_path / "a") == 0o600
    (tmp_path / "a").chmod(0o640)
    write_whole(tmp_path / "a", "two")
    assert (_mode(tmp_path / "a"), (tmp_path / "a").read_text()) == (0o640, "two")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path):
    """What a link points to stays as it was."""
    (tmp_path / "other").write_text("of the user")
    (tmp_path / "a").symlink_to("other")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "other").read_text() == "of the user" and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException):
    """A full disk or Ctrl-C is raised, the old content stays, and no part of the new one is left."""

    def fail(descriptor: int, mode: int) -> None:
        raise error

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(type(error)):
        write_whole(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_new_folder_is_its_owners(tmp_path: Path, open_umask: None):
    """A new folder gets the mode 0700; an existing one is an error, or is kept with its mode where that is allowed."""
    make_private(tmp_path / "a" / "b")
    assert _mode(tmp_path / "a" / "b") == 0o700
    (tmp_path / "a" / "b").chmod(0o750)
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "a" / "b")
    make_private(tmp_path / "a" / "b", exist_ok=True)
    assert _mode(tmp_path / "a" / "b") == 0o750
