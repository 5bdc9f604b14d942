"""Where the child's raw output goes: a file, and memory when the file's disk is full."""

from __future__ import annotations

import tempfile
from pathlib import Path

MAX_SPOOL_BYTES = 64 * 1024 * 1024


class LogSink:
    """Keeps every byte of the child's output, whatever happens to the disk.

    Once a write fails, what follows is held in memory (the newest 64 MiB) and written at the end: to the file if there is
    room again, else beside it in the system's temporary folder. Secrets are blotted out before anything is written.
    """

    def __init__(self, path: Path, secrets: tuple[str, ...] = ()) -> None:
        self.path = path
        self.note = ""
        self._file = path.open("ab", buffering=0)
        self._spool = bytearray()
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._held = b""

    def write(self, data: bytes) -> None:
        self._put(self._blot(data))

    def close(self) -> Path:
        """Write out what is held and close; returns the file that holds the log."""
        self._put(self._blot(b"", final=True))
        self._file.close()
        if self._spool:
            self._rescue()
        return self.path

    def _put(self, data: bytes) -> None:
        if self._spool:
            self._spool += data
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
        """Try the file once more, then a temporary one that holds the whole log."""
        try:
            with self.path.open("ab") as file:
                file.write(self._spool)
            self.note += "; the rest was written at the end"
            return
        except OSError:
            written = self.path.read_bytes()
        # delete=False: this file is all that is left of the log
        with tempfile.NamedTemporaryFile(prefix="loadcheck-", suffix=".log", delete=False) as rescue:
            rescue.write(written + self._spool)
        self.path = Path(rescue.name)
        self.note += f"; the whole log is in {self.path}"

    def _blot(self, data: bytes, final: bool = False) -> bytes:
        """`data` without secrets; the end that may be the beginning of one is held back until more comes."""
        if not self._secrets:
            return data
        data = self._held + data
        for secret in self._secrets:
            data = data.replace(secret, b"[secret]")
        keep = 0 if final else max(_overlap(data, secret) for secret in self._secrets)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]


def _overlap(data: bytes, secret: bytes) -> int:
    """Length of the longest end of `data` that begins `secret`."""
    return next((n for n in range(min(len(secret) - 1, len(data)), 0, -1) if data.endswith(secret[:n])), 0)
