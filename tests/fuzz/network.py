"""Archives of the hub and replies of chat servers, from servers on loopback."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import socketserver
import struct
import tarfile
import threading
import zipfile
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

from seedbench_r1.api.client import ChatClient, RequestFailed
from seedbench_r1.api.replies import Reply
from seedbench_r1.data import hub as package_hub
from seedbench_r1.errors import ConfigError, SeedBenchError
from tests.api_server import completion
from tests.downloads import REPO, Watch, get, on_disk, tar_bytes
from tests.fuzz import Input
from tests.fuzz.mutate import dumped, encoded, mutated, mutated_json
from tests.hub_emulator import emulated_hub
from tests.rows import evaluation_row

WANTED = {f"{n}.mp4": random.Random(n).randbytes(3000) for n in range(3)}
FOLDER = "videos/EpicKitchens"


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _hostile() -> list[dict[str, bytes | tarfile.TarInfo]]:
    members: list[dict[str, bytes | tarfile.TarInfo]] = [
        {f"a/{name}": data for name, data in WANTED.items()} | {"notes.txt": b"x" * 700},
        {"../../outside.mp4": b"x", **WANTED},
        {"/tmp/outside.mp4": b"x", **WANTED},
        {"a/0.mp4": _link("a/0.mp4", "/etc/passwd"), **WANTED},
        {"1.mp4": _link("1.mp4", "0.mp4", tarfile.LNKTYPE), "0.mp4": WANTED["0.mp4"]},
        {"dev.mp4": _link("dev.mp4", "", tarfile.CHRTYPE), **WANTED},
        {"/".join("d" * 80) + "/0.mp4": WANTED["0.mp4"], **WANTED},
        {"x" * 300 + "/0.mp4": WANTED["0.mp4"], "y" * 260 + ".mp4": b"z"},
        {"a/0.mp4": WANTED["0.mp4"], "b/0.mp4": b"another"},
        {"a/0.mp4": b""},
    ]
    return members


def _zip(members: dict[str, bytes | tarfile.TarInfo], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if isinstance(content, tarfile.TarInfo):
                info.external_attr = 0o120777 << 16
                content = b"/etc/passwd"
            archive.writestr(info, content)
    return buffer.getvalue()


def contents(name: str, data: bytes, member: str) -> list[bytes]:
    """What another reader finds under a name."""
    found = []
    with suppress(tarfile.TarError, EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile):
        if not name.endswith(".zip"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for info in tar:
                    if info.isfile() and info.name.endswith(member) and (file := tar.extractfile(info)) is not None:
                        found.append(file.read())
            return found
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            for each in opened.infolist():
                if each.filename.endswith(member):
                    with suppress(EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile, NotImplementedError):
                        found.append(opened.read(each))
    return found


class Archives:
    """An archive of three wanted clips is mutated, and downloaded as in `data download`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inside"
        self._seeds: list[tuple[str, bytes]] = []
        # The first, which is sound, as often as all others together.
        for members in (*_hostile()[:1] * 8, *_hostile()):
            self._seeds += [("batch_1.tar", tar_bytes(members, "w:")), ("batch_1.tar.gz", tar_bytes(members))]
            self._seeds += [("batch_1.tar.xz", tar_bytes(members, "w:xz")), ("batch_1.zip", _zip(members, 0))]
            self._seeds.append(("batch_1.zip", _zip(members, zipfile.ZIP_DEFLATED)))
        rows = "".join(json.dumps(evaluation_row(n)) + "\n" for n in range(3)).encode()
        images = {f"images/EpicKitchens/{n}.png": b"an image" for n in range(3)}
        self._files = {"annotations/validation_L1.jsonl": rows} | images
        self._stack = ExitStack()
        self._hub = self._stack.enter_context(emulated_hub())
        url = self._hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (
            ("huggingface_hub.constants.ENDPOINT", self._hub.endpoint),
            ("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url),
            ("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "no-token")),
            (f"{package_hub.__name__}._WAITS_S", (0.01,) * 5),
        ):
            self._stack.enter_context(mock.patch(name, value))

    def make(self, rng: random.Random) -> Input:
        name, data = rng.choice(self._seeds)
        others = [other for _, other in self._seeds]
        # What lies under a compression, too: its checksums hide all but the first damage.
        if name.endswith(".tar.gz") and rng.random() < 0.5:
            return name, gzip.compress(mutated(rng, gzip.decompress(data), others), 1)
        return name, data if rng.random() < 0.1 else mutated(rng, data, others)

    def check(self, name: str, data: bytes) -> str:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._hub.repositories.clear()
        self._hub.sent.clear()
        self._hub.add(REPO, self._files | {f"{FOLDER}/{name}": data})
        root, watch = self._folder / "root", Watch()
        try:
            get(root, watch, levels=("L1",), workers=1)
            result = "all there"
        except SeedBenchError as error:
            assert type(error) is not SeedBenchError
            assert len(str(error)) < 4000 + 10 * len(str(root)), str(error)[:300]
            result = f"refused: {type(error).__name__}"
        assert [path.name for path in self._folder.iterdir()] == ["root"]
        kept = {path: content for path, content in on_disk(root).items() if path not in self._files}
        for path, content in kept.items():
            assert path.startswith(f"{FOLDER}/"), path
            self._assert_exact(path.removeprefix(f"{FOLDER}/"), content, name, data)
        if len(kept) < len(WANTED):
            assert result != "all there"
            return f"{result}, {len(kept)} kept"
        return result

    def _assert_exact(self, member: str, content: bytes, name: str, data: bytes) -> None:
        assert member in WANTED, member
        # Neither a plain tar archive nor another file of the same name says what was meant.
        assert content == WANTED[member] or content in contents(name, data, member), member

    def close(self) -> None:
        self._stack.close()


class Replies:
    """A whole reply of a chat server, headers included, is mutated."""

    def __init__(self, folder: Path) -> None:
        self._reply = b""
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                length = 0
                while line := self.rfile.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.rfile.read(length)
                self.wfile.write(server._reply)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """The client has gone."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._client = ChatClient(url, "a-secret-key", timeout_s=5.0, tries=1)
        self._body = completion(reasoning_content="x", logprobs=[-0.5, -1.0])

    def make(self, rng: random.Random) -> Input:
        value = mutated_json(rng, rng.choice((self._body, completion(), {"error": {"message": "no", "code": None}})))
        body = encoded(rng, dumped(rng, value))
        kinds = (b"application/json", b"text/html; charset=latin-1", b"x; charset=utf-16", b"")
        headers = [b"Content-Type: " + rng.choice(kinds)]
        match rng.randrange(6):
            case 0:
                body = gzip.compress(body)
                headers.append(b"Content-Encoding: " + rng.choice((b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip")))
            case 1:
                half = len(body) // 2
                parts = [part for part in (body[:half], body[half:]) if part]
                body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
                headers.append(b"Transfer-Encoding: chunked")
            case 2:
                headers.append(b"Retry-After: " + rng.choice((b"-1", b"nan", b"1e400", b"x", b"Fri, 99 Jan 0000")))
        stated = rng.choice((len(body), len(body), len(body), len(body) + 5, len(body) // 2, -1))
        if headers[-1] != b"Transfer-Encoding: chunked":
            headers.append(b"Content-Length: %d" % stated)
        status = rng.choice((b"200 OK",) * 8 + (b"429 x", b"500 x", b"401 x", b"404 x", b"204 x", b"299 ", b"600 x"))
        reply = b"HTTP/1.1 " + b"\r\n".join((status, *headers, b"Connection: close")) + b"\r\n\r\n" + body
        return "reply.http", mutated(rng, reply, [struct.pack(">I", 7)]) if rng.random() < 0.4 else reply

    def check(self, name: str, data: bytes) -> str:
        self._reply = data
        messages = [{"role": "user", "content": "?"}]
        try:
            reply = self._client.complete(messages, model="m", max_tokens=9)
        except (RequestFailed, ConfigError) as error:
            assert len(str(error)) < 3000
            return type(error).__name__
        assert isinstance(reply, Reply)
        return "a reply"

    def close(self) -> None:
        self._client.close()
        self._server.shutdown()
        self._server.server_close()
