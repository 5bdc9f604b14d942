"""The weights' pages are mapped before they are copied."""

import ctypes
import mmap
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadcheck.stacks.unsloth_vllm import map_ahead

PAGE = mmap.PAGESIZE
PAGES = 2048


@pytest.fixture
def address(tmp_path: Path) -> Iterator[int]:
    """The address of a mapped file of PAGES pages."""
    (tmp_path / "weights").write_bytes(b"x" * PAGE * PAGES)
    with (tmp_path / "weights").open("rb") as file:
        found = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    first = ctypes.c_char.from_buffer(found)
    yield ctypes.addressof(first)
    del first
    found.close()


def faults_of_reading(address: int) -> int:
    """Page faults while all pages are read; the system maps 16 at once by itself."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for page in range(PAGES):
        ctypes.string_at(address + page * PAGE, 1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def tensor(address: int) -> Any:
    return SimpleNamespace(data_ptr=lambda: address)


def test_a_mapping_is_found_by_an_address(address: int):
    """An address inside a mapping finds all of it; an unmapped one finds nothing."""
    found = map_ahead.mapping_of(address + 3 * PAGE + 5)
    assert found.start <= address and found.stop >= address + PAGES * PAGE
    assert map_ahead.mapping_of(1) == range(1, 2)


def test_all_pages_are_mapped(address: int, monkeypatch: pytest.MonkeyPatch):
    """Several threads map all chunks, the last one shorter."""
    monkeypatch.setattr(map_ahead, "_CHUNK_BYTES", 300 * PAGE)
    for thread in map_ahead.map_in_background(range(address, address + PAGES * PAGE)):
        thread.join(timeout=60)
    assert faults_of_reading(address) < PAGES / 32


def test_an_unsupported_system_prints_nothing(address: int, monkeypatch: pytest.MonkeyPatch):
    """If the system does not support it, pages are mapped one by one as usual, without a message."""
    monkeypatch.setattr(map_ahead, "_POPULATE_READ", 99)
    for thread in map_ahead.map_in_background(range(address, address + PAGES * PAGE)):
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_a_file_is_mapped_once_its_first_tensor_was_copied(monkeypatch: pytest.MonkeyPatch):
    """A file is mapped once, after its first tensor was copied, not while names are listed."""
    asked: list[range] = []
    now_s = [0.0]
    monkeypatch.setattr(map_ahead, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(
        map_ahead, "mapping_of", lambda address: range(address // 100 * 100, address // 100 * 100 + 100)
    )
    monkeypatch.setattr(map_ahead, "map_in_background", asked.append)
    tensors = [(str(address), tensor(address)) for address in (110, 120, 130, 210, 220)]
    iterate = map_ahead.map_ahead(lambda files: iter(tensors))
    assert [name for name, _ in iterate(["a", "b"])] == ["110", "120", "130", "210", "220"]
    assert asked == []
    for name, _ in iterate(["a", "b"]):
        now_s[0] += 0 if name == "110" else 2 * map_ahead._COPIED_S
    assert asked == [range(100, 200), range(200, 300)]
