"""Bytes inside, GiB at the edges."""

import pytest

from loadcheck.units import GIB, from_gib, round_up, show_bytes, to_gib


def test_gib_round_trip():
    """A number of GiB with four decimals survives the way to bytes and back."""
    for hundredths in range(0, 10_000, 37):
        gib = 5 + hundredths / 10_000
        assert round(to_gib(from_gib(gib)), 4) == round(gib, 4)


@pytest.mark.parametrize(("value", "multiple", "result"), [(0, 8, 0), (1, 8, 8), (8, 8, 8), (226, 8, 232)])
def test_round_up(value: int, multiple: int, result: int):
    """The smallest multiple that is at least the value."""
    assert round_up(value, multiple) == result


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(512, "512 B"), (2048, "2.0 KiB"), (188_940_288, "180.2 MiB"), (3 * GIB // 2, "1.50 GiB"), (-GIB, "-1.00 GiB")],
)
def test_show_bytes(num_bytes: int, text: str):
    """Bytes are shown in the largest binary unit that leaves a whole part."""
    assert show_bytes(num_bytes) == text
