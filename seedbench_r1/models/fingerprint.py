"""Which bytes a checkpoint has: the small files at once, the weights in part at once and in full in the background."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from seedbench_r1.errors import ConfigError, ResourceError, SeedBenchError
from seedbench_r1.files import read_json_object, write_json
from seedbench_r1.questions import file_sha256

_MIB = 1 << 20
_SAMPLES, _BLOCK = 256, 4096  # bytes of one block
_SHOWN = 16  # hex digits of a small file's sha256

# What turns a question into tokens, and tokens into text
PROCESSOR_FILES = (
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_SMALL_FILES = ("config.json", "generation_config.json", "adapter_config.json", *PROCESSOR_FILES)


def small_file_hashes(folders: Mapping[str, Path]) -> dict[str, str]:
    """First 16 hex digits of the sha256 of every small file, by its name; folders: a name's beginning -> folder."""
    found = {}
    for prefix, folder in folders.items():
        for pattern in _SMALL_FILES:
            for path in sorted(folder.glob(pattern)):
                name = prefix + path.relative_to(folder).as_posix()
                found[name] = file_sha256(path)[:_SHOWN]
    return found


def weight_samples(weights: Mapping[str, Path]) -> dict[str, str]:
    """Of every weight file, as "<name>:samples", a hash of 256 blocks of 4 KiB spread evenly over it.

    Two merges of one base may share their first and last MiB, where nothing was trained, but not what lies between.
    """
    found = {}
    for name, path in weights.items():
        size, digest = path.stat().st_size, hashlib.sha256()
        with path.open("rb") as stream:
            for place in range(_SAMPLES):
                stream.seek(place * max(0, size - _BLOCK) // (_SAMPLES - 1))
                digest.update(stream.read(_BLOCK))
        found[f"{name}:samples"] = digest.hexdigest()[:_SHOWN]
    return found


def fingerprint(weights: list[Path]) -> str:
    """16 hex digits over names, sizes, and the first and last MiB of each weight file."""
    digest = hashlib.sha256()
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(_MIB))
            # All bytes would take minutes to read; they are hashed in the background (WeightHashes).
            stream.seek(max(0, size - _MIB))
            digest.update(stream.read(_MIB))
    return digest.hexdigest()[:16]


def weights_sha256(hashes: Mapping[str, str]) -> str:
    """One sha256 over all weight files: of the lines "<file name> <sha256>" in their order."""
    lines = (f"{name.rpartition('/')[2]} {digest}\n" for name, digest in hashes.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stamp(status: os.stat_result) -> list[int]:
    """What changes when a file does: a copy may keep its time of change, but no file its inode's."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


class WeightHashes:
    """sha256 of every weight file, every byte read, and kept in a file by path, size, times of change and inode.

    Args:
        weights: name in manifests -> file.
        cache: the file that keeps them; one that is damaged is made anew.
    """

    def __init__(self, weights: Mapping[str, Path], cache: Path) -> None:
        self._weights = weights
        self._cache = cache
        self._found: dict[str, str] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)

    def start(self) -> WeightHashes:
        """Begin in the background: a 7B model's weights are 16 GB to read."""
        self._thread.start()
        return self

    def wait(self) -> dict[str, str]:
        """Name -> sha256, in the order given. Raises ConfigError if a file cannot be read."""
        self._thread.join()
        if self._error is not None:
            raise ConfigError(f"The weights could not be read to their end: {self._error}") from self._error
        return self._found

    def _run(self) -> None:
        try:
            self._found = {name: self._sha256(path) for name, path in self._weights.items()}
        except Exception as error:  # noqa: BLE001 - raised to whoever waits
            self._error = error

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        stamp = _stamp(status)
        known = self._read().get(str(path.resolve()))
        if isinstance(known, list) and known[:-1] == stamp:
            return str(known[-1])
        digest = file_sha256(path)
        # Changed while it was read: the hash belongs to neither state.
        if _stamp(path.stat()) == stamp:
            self._keep(str(path.resolve()), [*stamp, digest])
        return digest

    def _read(self) -> dict[str, object]:
        try:
            return read_json_object(self._cache, ConfigError) if self._cache.exists() else {}
        except SeedBenchError:
            return {}

    def _keep(self, name: str, entry: list[object]) -> None:
        try:
            write_json(self._cache, self._read() | {name: entry})
        except ResourceError:
            return  # a cache that cannot be written costs time, no answer
