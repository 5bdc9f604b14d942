"""A stand-in for the Hugging Face hub on loopback: the few answers that huggingface_hub 0.28 needs, from files in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit


def blob_id(content: bytes) -> str:
    """The id that git hash-object prints."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """A repository with one commit. `asked` records the requests, each with its Range.

    Args:
        files: the commit's files by name; *.safetensors are in LFS.
        sent: content that is sent in place of a file's own.
        cut: files whose first answer breaks off halfway.
    """

    def __init__(self, repo: str, revision: str, files: dict[str, bytes]) -> None:
        self.repo, self.revision, self.files = repo, revision, files
        self.sent: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = ""

    def tree(self) -> list[dict[str, Any]]:
        return [self._entry(name, content) for name, content in self.files.items()]

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
        if name.endswith(".safetensors"):
            entry["oid"] = blob_id(b"the pointer")
            entry["lfs"] = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 11}
        return entry

    def answer(self, method: str, path: str, wanted: str | None) -> tuple[int, dict[str, str], bytes, int]:
        """Status, headers, body, and how many bytes of the body are sent before the connection breaks."""
        self.asked.append((method, path, wanted))
        api, resolve = f"/api/models/{self.repo}", f"/{self.repo}/resolve/{self.revision}/"
        if path == f"{api}/tree/{self.revision}":
            return _json(self.tree())
        if path == f"{api}/revision/{self.revision}":
            siblings = [{"rfilename": name} for name in self.files]
            return _json({"id": self.repo, "sha": self.revision, "siblings": siblings})
        name = path.removeprefix(resolve)
        if not path.startswith(resolve) or name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"", 0
        return self._file(method, name, wanted)

    def _file(self, method: str, name: str, wanted: str | None) -> tuple[int, dict[str, str], bytes, int]:
        content = self.sent.get(name, self.files[name])
        entry = self._entry(name, self.files[name])
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.revision}
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body, cut = content[begin:], method == "GET" and name in self.cut
        self.cut -= {name} if cut else set()
        return (206 if wanted else 200), headers, body, len(body) // 2 if cut else len(body)


def _json(data: Any) -> tuple[int, dict[str, str], bytes, int]:
    body = json.dumps(data).encode()
    return 200, {"Content-Type": "application/json"}, body, len(body)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free loopback port; its address is in `url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802: the name that http.server calls
            status, headers, body, sent = hub.answer(self.command, urlsplit(self.path).path, self.headers.get("Range"))
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:sent])

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
