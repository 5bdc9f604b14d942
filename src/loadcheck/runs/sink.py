"""Writes the child's raw output to a file; if the disk is full, keeps it in memory."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from loadcheck.runs.private import open_private
from loadcheck.runs.redact import Redactor

MAX_SPOOL_BYTES = 64 * 1024 * 1024


class LogSink:
    """Keeps every byte of the child's output, whatever happens to the disk.

    Once a write fails, what follows is kept in memory (the newest 64 MiB) and written at the end: to the file if there is
    room again, otherwise the whole log goes to the system's temporary folder. Secrets are redacted before anything is written.

    Attributes:
        path: the file that holds the log. It must be new: no link is followed, nothing is overwritten.
        note: what went wrong while writing; empty if nothing did.
    """

    def __init__(self, path: Path, secrets: tuple[str, ...] = ()) -> None:
        self.path = path
        self.note = ""
        self._file = open_private(path, "x+b", buffering=0)
        self._spool = bytearray()
        self._num_dropped = 0
        self._redactor = Redactor(secrets)
        self._held = b""

    def write(self, data: bytes) -> None:
        self._put(self._redact(data))

    def close(self) -> Path:
        """Write what is still in memory, and close; returns the file that holds the log."""
        self._put(self._redact(b"", final=True))
        if self._spool or not self.path.exists():
            self._rescue()
        with suppress(OSError):
            self._file.close()
        return self.path

    def _put(self, data: bytes) -> None:
        if self._spool:
            self._spool += data
            self._num_dropped += max(0, len(self._spool) - MAX_SPOOL_BYTES)
            del self._spool[:-MAX_SPOOL_BYTES]
            return
        view = memoryview(data)
        while view:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                self.note = f"{self.path}: {error.strerror} while the log was written"
                self._spool += view
                return

    def _rescue(self) -> None:
        """Write what is in memory to the file; failing that, write the whole log to a new file."""
        if self._num_dropped:
            self.note += f"; {self._num_dropped} bytes in its middle are lost"
        try:
            if self.path.exists():
                self._finish()
                self.note += "; the rest was written at the end"
            else:
                self.note = f"{self.path}: was removed while the log was written; it was written anew at the end"
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open_private(self.path, "xb") as file:
                    self._copy(file)
        except OSError:
            self._move()

    def _finish(self) -> None:
        while self._spool:
            del self._spool[: self._file.write(self._spool)]

    def _copy(self, file: IO[bytes]) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)
        file.write(self._spool)

    def _move(self) -> None:
        try:
            # delete=False: this file is the only copy of the log
            with tempfile.NamedTemporaryFile(prefix="loadcheck-", suffix=".log", delete=False) as rescue:
                self._copy(rescue.file)
        except OSError as error:
            lost = f"its last {len(self._spool)} bytes are lost" if self._spool else "it is lost"
            self.note += f"; {lost}, as the temporary folder cannot be written either ({error.strerror})"
            return
        self.path = Path(rescue.name)
        self.note += f"; the whole log is in {self.path}"

    def _redact(self, data: bytes, final: bool = False) -> bytes:
        """`data` without tokens; an end that may be the beginning of a token is held back until more arrives."""
        data = self._redactor.known_tokens(self._held + data)
        keep = 0 if final else self._redactor.num_held(data)
        self._held = data[len(data) - keep :]
        return self._redactor.token_forms(data[: len(data) - keep])
