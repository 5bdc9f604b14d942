"""Bytes inside, GiB at the edges."""

import pytest

from loadcheck.units import GIB, from_gib, parse_bytes, round_up, show_bytes, to_gib


def test_gib_round_trip():
    """A number of GiB with four decimals survives conversion to bytes and back."""
    for hundredths in range(0, 10_000, 37):
        gib = 5 + hundredths / 10_000
        assert round(to_gib(from_gib(gib)), 4) == round(gib, 4)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("0", 0), ("15828320256", 15_828_320_256), ("24GiB", 24 * GIB), ("24 GB", 24 * GIB), ("1.5g", 3 * GIB // 2),
     ("60 MiB", 62_914_560), ("7 B", 7)],
)  # fmt: skip
def test_bytes_may_have_units(text: str, num_bytes: int):
    """Plain bytes, or a number with KiB, MiB or GiB, also written GB."""
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "-1", "24.5", "GiB", "1e9", "24TiB", "nan", "9" * 5000])
def test_invalid_bytes_are_refused(text: str):
    """A sign, a fraction of a byte, another unit or text is a ValueError."""
    with pytest.raises(ValueError, match="is not a number of bytes"):
        parse_bytes(text)


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
