"""A Hugging Face hub of one process for the tests: the repositories of a folder, with as much of the protocol as downloads use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """`root`/models/org/name/… and `root`/datasets/org/name/…; `served` are the files asked for.

    `gate` is open; while a test has it shut, nothing is sent of a file beyond its first 64 KiB.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.gate = root, threading.Event()
        self.gate.set()
        self.served: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub(root: Path) -> Iterator[Hub]:
    server = Hub(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            return self._api(parts[1:])
        kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        return self._file(self.server.root / kind / parts[0] / parts[1], "/".join(parts[4:]), body)

    def _api(self, parts: list[str]) -> None:
        folder = self.server.root.joinpath(*parts[:3])
        if not folder.is_dir():
            return self._refuse("RepoNotFound")
        asked, revision = (parts[3], parts[4]) if len(parts) > 4 else ("revision", "main")
        if revision not in ("main", COMMIT):
            return self._refuse("RevisionNotFound")
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if asked == "revision":
            return self._json({"id": "/".join(parts[1:3]), "sha": COMMIT, "siblings": []})
        return self._json(
            [{"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": _digest(p)} for p in files]
        )

    def _file(self, folder: Path, name: str, body: bool) -> None:
        content = (folder / name).read_bytes()
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if begin else 200)
        headers = {"ETag": f'"{_digest(folder / name)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content) - begin)}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.server.served.append(name)
            with contextlib.suppress(ConnectionError):  # the client was killed
                for start in range(begin, len(content), 65536):
                    if start > begin:
                        self.server.gate.wait()
                    self.wfile.write(content[start : start + 65536])

    def _json(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
