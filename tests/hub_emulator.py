"""A small hub on loopback: enough of its HTTP interface for listing and fetching, with faults on demand.

Two servers, as in the original: one answers about repositories and redirects large files, the other ("CDN") holds the
bytes. Every request is noted, so that a test can count what was really sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COUNTING = threading.Lock()
LFS_SUFFIXES = (".jsonl", ".mp4", ".png", ".gz", ".tar", ".zip", ".safetensors", ".bin")


@dataclass
class Fault:
    """What happens once to the next request for a file (or for the listing: path "")."""

    status: int | None = None  # answer this status instead
    cut_after: int | None = None  # send so many bytes of the body, then drop the connection
    flip: bool = False  # send other bytes of the same length
    body: bytes | None = None  # answer 200 with this instead


@dataclass
class Sent:
    """One answer."""

    server: str  # "hub" or "cdn"
    method: str
    path: str  # of the file in its repository; of the URL for everything else
    status: int
    start: int  # first byte
    n_bytes: int  # body bytes that were sent
    n_asked: int  # and that would have been sent to a client who takes all
    authorization: str | None


@dataclass
class Hub:
    """Repositories by "datasets/ORG/NAME" or "models/ORG/NAME": revision -> path -> bytes."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # repository -> token that it asks for
    gated: set[str] = field(default_factory=set)
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # path -> one for each coming request
    sent: list[Sent] = field(default_factory=list)
    page_size: int = 1000
    bytes_per_s: float | None = None
    latency_s: float = 0.0  # before every answer with content
    answering: int = 0  # answers with content that are being sent, and the most there ever were at once
    most_answering: int = 0
    ranges: bool = True
    endpoint: str = ""
    cdn: str = ""

    def add(self, repository: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Commit the files; returns the commit."""
        listing = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
        commit = hashlib.sha1(f"{repository}{listing}".encode()).hexdigest()
        revisions = self.repositories.setdefault(repository, {})
        revisions[commit] = revisions[branch] = dict(files)
        return commit

    def commit(self, repository: str, revision: str) -> str:
        revisions = self.repositories[repository]
        return next(r for r in revisions if len(r) == 40 and revisions[r] == revisions[revision])

    def environment(self, home: object) -> dict[str, str]:
        """For a subprocess that shall talk to this hub and to nothing else."""
        without = ("HF_", "HUGGING", "SBR1_", "TRANSFORMERS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }

    def body_bytes(self, path: str) -> int:
        """Body bytes of a file that were sent so far."""
        return sum(sent.n_bytes for sent in list(self.sent) if sent.path == path and sent.method == "GET")

    def starts(self, path: str) -> list[int]:
        """First bytes of the answers that carried a file's content."""
        return [s.start for s in list(self.sent) if s.path == path and s.n_bytes and s.status in (200, 206)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def emulated_hub(hub: Hub | None = None) -> Iterator[Hub]:
    """Serve until the end of the block."""
    hub = hub or Hub()
    servers = []
    for name in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "server_name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    server_name: str
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        # A client that has enough closes the connection.
        with suppress(ConnectionResetError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Silence: requests are noted in Hub.sent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "cdn":
            repository, revision, path = "/".join(parts[1:4]), parts[4], "/".join(parts[5:])
            self._send_file(path, self.hub.repositories[repository][revision][path])
        elif parts[0] == "api":
            self._api("/".join(parts[1:4]), parts[4:], urllib.parse.parse_qs(url.query))
        else:
            whole = parts if parts[0] == "datasets" else ["models", *parts]  # .../ORG/NAME/resolve/REVISION/PATH
            self._resolve("/".join(whole[:3]), whole[4], "/".join(whole[5:]))

    def _api(self, repository: str, rest: list[str], query: dict[str, list[str]]) -> None:
        if self._refused(repository) or self._fault_instead(""):
            return
        revision = rest[1] if len(rest) > 1 else "main"
        files = self.hub.repositories[repository].get(revision)
        if files is None:
            self._error(404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            self._tree(repository, revision, files, int(query.get("cursor", ["0"])[0]))
        else:
            commit = self.hub.commit(repository, revision)
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": repository.split("/", 1)[1], "sha": commit, "siblings": siblings, "tags": []})

    def _tree(self, repository: str, revision: str, files: dict[str, bytes], first: int) -> None:
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders
        ]
        for path, data in sorted(files.items()):
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if path.endswith(LFS_SUFFIXES):
                entry["oid"] = git_sha1(sha256(data).encode())
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        page = entries[first : first + self.hub.page_size]
        headers = {}
        if first + self.hub.page_size < len(entries):
            cursor = first + self.hub.page_size
            url = f"{self.hub.endpoint}/api/{repository}/tree/{revision}?recursive=True&cursor={cursor}"
            headers["Link"] = f'<{url}>; rel="next"'
        self._json(page, headers)

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        if self._refused(repository):
            return
        files = self.hub.repositories[repository].get(revision)
        if files is None or path not in files:
            self._error(404, "RevisionNotFound" if files is None else "EntryNotFound")
            return
        headers = {"X-Repo-Commit": self.hub.commit(repository, revision)}
        if not path.endswith(LFS_SUFFIXES):
            self._send_file(path, files[path], headers | {"ETag": f'"{git_sha1(files[path])}"'})
            return
        if self.command == "GET" and self._fault_instead(path):
            return
        location = f"{self.hub.cdn}/cdn/{repository}/{revision}/{urllib.parse.quote(path)}?signature=1"
        linked = {"X-Linked-Size": str(len(files[path])), "X-Linked-ETag": f'"{sha256(files[path])}"'}
        self._answer(302, b"", headers | linked | {"Location": location})

    def _send_file(self, path: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        if self.command == "GET" and self._fault_instead(path):
            return
        queue = self.hub.faults.get(path, [])
        fault = queue.pop(0) if queue and self.command == "GET" else Fault()
        if fault.flip:
            data = bytes(255 - byte for byte in data)
        start, end, status, extra = 0, len(data), 200, dict(headers or {})
        wanted = self.headers.get("Range")
        if wanted and self.hub.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            start = int(first)
            end = min(int(last) + 1, end) if last else end
            if start >= len(data):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status, extra["Content-Range"] = 206, f"bytes {start}-{end - 1}/{len(data)}"
        with COUNTING:
            self.hub.answering += 1
            self.hub.most_answering = max(self.hub.most_answering, self.hub.answering)
        time.sleep(self.hub.latency_s)
        self._answer(status, data[start:end], extra, path=path, start=start, cut_after=fault.cut_after)
        with COUNTING:
            self.hub.answering -= 1

    def _refused(self, repository: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = repository in self.hub.repositories
        if known and self.hub.tokens.get(repository) in (None, token):
            return False
        self._error(401, "GatedRepo" if known and repository in self.hub.gated else "RepoNotFound")
        return True

    def _fault_instead(self, path: str) -> bool:
        """Answer with the next fault of this path, if it replaces the whole answer."""
        queue = self.hub.faults.get(path, [])
        if not queue or (queue[0].status is None and queue[0].body is None):
            return False
        fault = queue.pop(0)
        self._answer(fault.status or 200, fault.body or b"", {}, path=path)
        return True

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        path: str | None = None,
        start: int = 0,
        cut_after: int | None = None,
    ) -> None:
        authorization = self.headers.get("Authorization")
        sent = Sent(
            self.server_name,
            self.command,
            self.path if path is None else path,
            status,
            start,
            0,
            len(body),
            authorization,
        )
        self.hub.sent.append(sent)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = len(body) if cut_after is None else min(cut_after, len(body))
        block_size = 16 << 10
        for first in range(0, limit, block_size):
            block = body[first : min(first + block_size, limit)]
            try:
                self.wfile.write(block)
            except OSError:  # the client went away
                self.close_connection = True
                return
            sent.n_bytes += len(block)
            if self.hub.bytes_per_s:
                time.sleep(len(block) / self.hub.bytes_per_s)
        if limit < len(body):
            self.close_connection = True
