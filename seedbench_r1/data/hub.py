"""The hub: which files a data set holds, and the bytes of one file, continued where an earlier process stopped.

huggingface_hub finds the repository, the token and the addresses. It resumes a file within one process only, so the
bytes are fetched here, by HTTP range requests: of files into a hidden one next to the target, named after the content.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.files import REFUSED

_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # after a broken connection that brought nothing new
_BUSY = (408, 429, 500, 502, 503, 504)
_HTTP_LIMIT = 50 * 10**9  # bytes: the hub serves no larger file by plain HTTP (huggingface_hub 2.4, http_get)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository at one commit."""

    path: str  # inside the repository
    size: int  # bytes
    sha256: str | None  # of the content; None: a small file that git itself keeps
    git_sha1: str  # git's blob id; of the content if sha256 is None, else of a pointer

    @property
    def content_id(self) -> str:
        return self.sha256 or self.git_sha1


@dataclass(frozen=True, slots=True)
class Repository:
    """A data set at one commit."""

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]


def open_repository(repo_id: str, revision: str) -> Repository:
    """Resolve a branch, tag or commit and list every file with its size and hash.

    Raises:
        ConfigError: no such data set or revision, no permission, no connection, or an answer that makes no sense.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ConfigError(f"--repo-id {repo_id!r} is not understood. Give ORG/NAME.")
    with named_errors(f"The data set {repo_id} at revision {revision} cannot be read"):
        from huggingface_hub import HfApi, RepoFile

        # The commit first: the tree of a branch could change between two questions.
        api = HfApi(library_name="seedbench-r1")
        commit = _patiently(lambda: api.repo_info(repo_id, repo_type="dataset", revision=revision).sha)
        if not re.fullmatch(r"[0-9a-f]{40}", str(commit)):
            raise ValueError(f"commit {commit!r}")
        tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=commit, recursive=True)
        files = tuple(
            HubFile(item.path, item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
            for item in tree
            # Folders are listed too.
            if isinstance(item, RepoFile)
        )
    return Repository(repo_id, str(commit), files)


@contextmanager
def named_errors(subject: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into a ConfigError: the subject, then the reason and what to do."""
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ConfigError(f"{subject}: {reason(error)}") from error
    except OSError as error:
        # huggingface_hub raises plain OSErrors for its own reasons; those of the disk have a number.
        if error.errno is not None:
            raise disk_error(error) from error
        raise ConfigError(f"{subject}: {str(error).partition(chr(10))[0]} Fix: the same command again.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = str(error).partition("\n")[0]
        raise ConfigError(
            f"{subject}: the answer is not the hub's ({type(error).__name__}: {detail}). Fix: check the name, "
            f"HF_ENDPOINT and the proxy."
        ) from error


def reason(error: BaseException) -> str:
    """Why the hub did not give what was asked, and what to type."""
    from huggingface_hub import constants, errors

    # It says only that the cache has nothing; the cause says why the hub was not reached.
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    match error:
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return "HF_HUB_OFFLINE is set and it is not in the cache. Fix: unset HF_HUB_OFFLINE."
        case errors.GatedRepoError():
            return "access is granted on request. Fix: accept the terms on its page, then export HF_TOKEN=..."
        case errors.RepositoryNotFoundError():
            return "the hub knows no such name, or it is private. Fix: check the name; if private, export HF_TOKEN=..."
        case errors.RevisionNotFoundError():
            return "there is no such revision. Fix: give an existing branch, tag or commit."
        case errors.RemoteEntryNotFoundError():
            return "the hub lists the file but does not have it (404)."
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            code = error.response.status_code
            return f"the hub refused ({code}). Fix: export HF_TOKEN=... with a token that may read it."
        case errors.HfHubHTTPError():
            return f"the hub answered {error.response.status_code}. Fix: the same command again, later."
    cause = str(error).partition("\n")[0] or type(error).__name__
    return f"no connection to {constants.ENDPOINT} ({cause}). Fix: check the network; the same command continues."


class TransferError(DataError):
    """The hub does not give the bytes: the next file would fare no better."""


class Stopped(Exception):  # nothing is wrong
    """Another thread has asked to end."""


def fetch(
    repository: Repository,
    file: HubFile,
    target: Path,
    *,
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> bool:
    """Put the file under its final name, complete and with the right hash, or not at all.

    Args:
        repository: pinned to one commit.
        file: of that repository.
        target: its final name.
        on_bytes: called with the number of bytes that arrived (negative: bytes thrown away again).
        stop: set by another thread to end early; what has arrived is kept for the next call.

    Returns:
        False if it was stopped.

    Raises:
        DataError: the hub does not give the file, or gives other bytes than it announces.
        ResourceError: the disk is full.
    """
    partial = partial_path(target, file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = bytes_present(partial) > 0
        # A second try from the start: only bytes of an earlier call can make the first one wrong.
        while True:
            # The file on disk is the only record of progress, so that another process can go on.
            rest = blocks(repository, file, bytes_present(partial), file.size, on_bytes=on_bytes, stop=stop)
            with partial.open("ab") as stream, closing(rest):
                for block in rest:
                    stream.write(block)
                    stream.flush()
            if matches(partial, file):
                os.replace(partial, target)
                return True
            partial.unlink()
            on_bytes(-file.size)
            if not resumed:
                raise wrong_bytes(file)
            resumed = False
    except Stopped:
        return False
    except OSError as error:
        raise disk_error(error) from error


def blocks(
    repository: Repository,
    file: HubFile,
    start: int,
    end: int,
    *,
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> Generator[bytes, None, None]:
    """The bytes [start, end) of a file, through broken connections. Close it to close the connection.

    Raises:
        DataError: a file too large for plain HTTP. TransferError: the hub refuses, or nothing arrives any more.
        Stopped: `stop` is set.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    if file.size > _HTTP_LIMIT:
        raise DataError(
            f"{file.path} has {file.size / 1e9:.0f} GB, more than the hub serves by plain HTTP. Fix: hf download "
            f"{repository.repo_id} {file.path} --repo-type dataset --local-dir DIR, then unpack it by hand."
        )
    have, failures = start, 0
    while have < end:
        if stop.is_set():
            raise Stopped
        before, broken = have, None
        try:
            for block in _request(repository, file, have, end, on_bytes):
                have += len(block)
                yield block
                if stop.is_set() and have < end:
                    raise Stopped
        except (HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise _transfer_error(file, error) from error
        except HTTPError as error:
            broken = error
        # Only standstill counts: a slow line that breaks every minute still finishes.
        if have > before:
            failures = 0
        elif failures == len(_WAITS_S):
            raise _transfer_error(file, broken or HTTPError(f"it ends after {have} of {file.size} bytes"))
        else:
            failures += 1
        if broken is not None:
            stop.wait(_WAITS_S[max(failures - 1, 0)])


def _transfer_error(file: HubFile, error: BaseException) -> TransferError:
    return TransferError(f"{file.path}: {reason(error)} What has arrived is kept.")


def wrong_bytes(file: HubFile) -> DataError:
    """Other bytes than the hub announces."""
    return DataError(
        f"{file.path}: the bytes do not have the announced hash {file.content_id[:16]}; they were thrown "
        f"away. A proxy or a mirror may have changed them. Fix: the same command again, or another network."
    )


def partial_path(target: Path, file: HubFile) -> Path:
    """Where the bytes arrive: next to the target, named after the content, so never continued by other bytes."""
    return target.with_name(f".{target.name}.{file.content_id[:16]}.part")


def bytes_present(path: Path) -> int:
    """Size of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def matches(path: Path, file: HubFile) -> bool:
    """True if the file on disk has the size and the hash that the hub announces. Reads every byte."""
    if bytes_present(path) != file.size or not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hasher(file)).hexdigest() == file.content_id


def hasher(file: HubFile) -> hashlib._Hash:
    """What the content's bytes are given to; its hexdigest is the file's content_id if they are right."""
    # A small file without a sha256 has git's blob id, a sha1 over a header and the content.
    header = b"blob %d\0" % file.size
    return hashlib.sha256() if file.sha256 is not None else hashlib.sha1(header, usedforsecurity=False)


def disk_error(error: OSError) -> ResourceError | ConfigError:
    """The disk's own words, with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError("No space left while downloading. What has arrived is kept. Fix: make room, then again.")
    if error.errno in REFUSED:
        return ResourceError(
            f"{error.filename or 'The data root'} cannot be written: {error.strerror}. What has arrived is kept. Fix: "
            f"make it writable, or choose another data root with --to."
        )
    return ConfigError(f"{error.filename or 'the data root'}: {error.strerror or error}.")


def _request(
    repository: Repository, file: HubFile, start: int, end: int, on_bytes: Callable[[int], None]
) -> Iterator[bytes]:
    """One request for the bytes [start, end); fewer if the connection breaks."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff  # type: ignore[attr-defined]

    url = hf_hub_url(repository.repo_id, file.path, repo_type="dataset", revision=repository.commit)
    # Compressed on the way, ranges would count other bytes than the file has.
    headers = {**build_hf_headers(library_name="seedbench-r1"), "Accept-Encoding": "identity"}
    if start or end < file.size:
        headers["Range"] = f"bytes={start}-{end - 1}"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with http_stream_backoff("GET", url, headers=headers, timeout=timeout, retry_on_exceptions=()) as response:
        hf_raise_for_status(response)
        # A server that ignores the range begins anew: what was there already arrives once more.
        known = start if response.status_code != 206 else 0
        on_bytes(-known)
        left = end - start
        for block in response.iter_bytes():
            on_bytes(min(len(block), left + known))
            fresh = block[known : known + left]  # a server that sends too much does not fill the disk
            known -= min(known, len(block))
            left -= len(fresh)
            if fresh:
                yield fresh
            if not left:
                return


def _patiently(ask: Callable[[], str | None]) -> str | None:
    """Ask again, a few times, while the hub says that it is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    for wait in (1.0, 2.0, 4.0):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY:
                raise
            time.sleep(wait)
    return ask()
