"""Downloads in this process, and what they leave on the disk."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from seedbench_r1.data.download import DownloadConfig, DownloadResult, download

REPO = "datasets/TencentARC/SEED-Bench-R1"


class Watch:
    """Remembers what a download says."""

    def __init__(self):
        self.texts: list[str] = []
        self.expected = self.arrived = 0

    def say(self, text: str) -> None:
        self.texts.append(text)

    def expect(self, n_bytes: int) -> None:
        self.expected += n_bytes

    def moved(self, n_bytes: int) -> None:
        self.arrived += n_bytes


def get(root: Path, watch: Watch | None = None, **options: object) -> DownloadResult:
    return download(DownloadConfig(root, **options), watch or Watch())


def on_disk(root: Path) -> dict[str, bytes]:
    """All files but the download's own."""
    paths = (path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".seedbench")}


def tar_bytes(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    options = {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(fileobj=buffer, mode=mode, **options) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
