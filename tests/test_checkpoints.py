"""Checkpoints are complete or absent, and later damage is found."""

from pathlib import Path

import pytest

from loadcheck.errors import BadInput
from loadcheck.runs import checkpoints
from loadcheck.runs.checkpoints import KEPT, MANIFEST, check_whole, drop_old, publish, step_of


def _checkpoint(folder: Path, step: int) -> Path:
    written = folder / ".partial" / f"checkpoint-{step}"
    (written / "inner").mkdir(parents=True)
    (written / "weights").write_bytes(b"weights" * step)
    (written / "inner" / "state").write_text("state")
    publish(written, folder / written.name)
    return folder / written.name


def test_a_published_checkpoint_is_complete(tmp_path: Path):
    """After publishing, the hashes match, the temporary folder is gone, and the name holds the step."""
    found = _checkpoint(tmp_path, 12)
    check_whole(found)
    assert (checkpoints.checkpoints(tmp_path), step_of(found)) == ([found], 12)
    assert list((tmp_path / ".partial").iterdir()) == []


@pytest.mark.parametrize("name", ["weights", "inner/state", MANIFEST])
def test_a_missing_or_changed_file_is_found(name: str, tmp_path: Path):
    """A missing or changed file of a checkpoint is found."""
    found = _checkpoint(tmp_path, 1)
    (found / name).write_text("other")
    with pytest.raises(BadInput, match="is not a whole checkpoint"):
        check_whole(found)
    (found / name).unlink()
    with pytest.raises(BadInput, match="is not a whole checkpoint"):
        check_whole(found)


def test_an_unfinished_checkpoint_is_ignored(tmp_path: Path):
    """An unfinished checkpoint, as after a power failure, is ignored; so are one without hashes, a link, and a foreign folder."""
    (tmp_path / ".partial" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    found = _checkpoint(tmp_path, 2)
    (tmp_path / "checkpoint-9").symlink_to(found)
    assert checkpoints.checkpoints(tmp_path) == [found]


def test_the_newest_are_kept(tmp_path: Path):
    """The newest checkpoints are kept, by step number rather than by name."""
    for step in (2, 10, 9):
        _checkpoint(tmp_path, step)
    drop_old(tmp_path)
    assert [step_of(each) for each in checkpoints.checkpoints(tmp_path)] == [9, 10][-KEPT:]
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each file and the folder are synced before the rename, and the folder that holds the new name after it."""
    synced: list[tuple[str, bool]] = []
    target = tmp_path / "new" / "checkpoint-1"
    monkeypatch.setattr(checkpoints, "sync_path", lambda path: synced.append((path.name, target.exists())))
    written = tmp_path / "written"
    written.mkdir()
    (written / "weights").touch()
    publish(written, target)
    assert synced == [("weights", False), (MANIFEST, False), ("written", False), ("new", True)]


def test_a_half_removed_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If an old checkpoint cannot be removed, training goes on, and what is left of it is not resumed from."""

    def fail(path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    for step in range(1, KEPT + 2):
        _checkpoint(tmp_path, step)
    monkeypatch.setattr("shutil.rmtree", fail)
    drop_old(tmp_path)
    assert (tmp_path / "checkpoint-1" / "weights").exists()
    assert [step_of(each) for each in checkpoints.checkpoints(tmp_path)] == [*range(2, KEPT + 2)]


def test_no_folder_has_no_checkpoints(tmp_path: Path):
    """A run that wrote none has none; a file with the name of one is none."""
    (tmp_path / "checkpoint-1").touch()
    assert checkpoints.checkpoints(tmp_path) == checkpoints.checkpoints(tmp_path / "none") == []


def test_publishing_writes_over_an_older_one(tmp_path: Path):
    """A resumed run may publish the same step again."""
    _checkpoint(tmp_path, 1)
    check_whole(_checkpoint(tmp_path, 1))
