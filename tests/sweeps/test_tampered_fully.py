"""test_tampered with every other digit."""

from pathlib import Path

from tests.test_tampered import DIGITS, check_position


def test_no_other_digit_passes(tmp_path: Path):
    """Each digit of each memory figure and count, changed to each other digit, fails and is named."""
    for position in DIGITS:
        check_position(position, "0123456789", tmp_path / "tampered.log")
