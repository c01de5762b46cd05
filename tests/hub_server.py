"""A Hugging Face hub on this machine: what huggingface_hub asks of one, served from directories."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

GOOD_TOKEN = "hf_of_somebody"


@dataclass
class Repository:
    """Commits, the newest last: their ids and directories. `refs` name them."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    access: str = "open"
    """`open`, `private` (for the good token) or `gated` (for nobody yet)."""

    def add(self, directory: Path, ref: str = "main") -> str:
        """A commit with the files of a directory: its id."""
        commit = hashlib.sha1(f"{len(self.commits)} {directory}".encode()).hexdigest()
        self.commits[commit] = directory
        self.refs[ref] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        commit = self.refs.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Hub:
    """A running hub. `requests` are all there were: method, path, and headers in lower case.

    `breaks` says after how many bytes each of the next downloads of a file breaks off, by name;
    `sizes` what it claims of a file; `status` what it answers to anything.
    """

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    """Set when a download stands still, which one does whose break is at -1."""

    def fetched(self, name: str | None = None) -> list[dict[str, str]]:
        """The headers of the downloads of a file, or of all."""
        return [
            headers
            for method, path, headers in self.requests
            if method == "GET" and "/resolve/" in path and path.endswith(name or "")
        ]


@contextmanager
def running() -> Iterator[Hub]:
    """A hub at a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, _, _ = unquote(self.path).partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, path, headers))
        if self.hub.status is not None:
            self._send(self.hub.status)
            return
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|commits)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        repository = self.hub.repositories.get(match[1]) if match else None
        token = headers.get("authorization")
        if token not in (None, f"Bearer {GOOD_TOKEN}"):
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.access == "private" and token is None):
            self._send(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        elif repository.access == "gated" and file:
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif info:
            self._tell(repository, info[2], info[3] or "main")
        elif file:
            self._file(repository, file[2], file[3])

    def _tell(self, repository: Repository, what: str | None, revision: str) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif what == "commits":
            fields = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""}
            self._json([{"id": commit, **fields} for commit in reversed(repository.commits)])
        else:
            files = [path for path in repository.commits[commit].rglob("*") if path.is_file()]
            names = [str(path.relative_to(repository.commits[commit])) for path in files]
            sizes = [path.stat().st_size for path in files]
            siblings = [
                {"rfilename": name, "size": self.hub.sizes.get(name, size)}
                for name, size in zip(names, sizes, strict=True)
            ]
            self._json({"id": "some/model", "sha": commit, "siblings": siblings})

    def _file(self, repository: Repository, revision: str, name: str) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return
        path = repository.commits[commit] / name
        if not path.is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin is None:
            self._send(200, headers, content, name)
            return
        start = int(begin[1])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, headers, content[start:], name)

    def _json(self, content: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", name: str = ""
    ) -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if not (breaks := self.hub.breaks.get(name)):
            self.wfile.write(body)
            return
        if (length := breaks.pop(0)) >= 0:
            self.wfile.write(body[:length])
            self.close_connection = True
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.hub.stalled.set()
        self.rfile.read(1)  # until the other end goes away
        self.close_connection = True
