"""The user's data: read, checked line by line, and converted to one form, before anything is loaded."""

from __future__ import annotations

from loadcheck.data.file import read_data
from loadcheck.data.rows import Data, Message, Row

__all__ = ["Data", "Message", "Row", "read_data"]
