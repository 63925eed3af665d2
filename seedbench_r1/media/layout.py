"""Where media lie below a data root: the layouts of docs/data.md, and files that somebody unpacked into sub-folders."""

from __future__ import annotations

import filecmp
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from seedbench_r1.errors import DataError

log = logging.getLogger(__name__)

SOURCES = ("EpicKitchens", "Ego4D")  # video_source of the annotations (docs/data.md)
# Where a level's clips and images come from. The training set is of L1's kind; "train" is no level of the benchmark.
LEVEL_SOURCES = {"L1": "EpicKitchens", "L2": "Ego4D", "L3": "Ego4D", "train": "EpicKitchens"}
KINDS = {
    **dict.fromkeys((".mp4", ".webm", ".mkv", ".avi", ".mov"), "videos"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "images"),
}


def source_in(name: str) -> str | None:
    """The video source that a name speaks of: "ego4d", "Ego4D_videos" and "EPIC-KITCHENS" all name one."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((source for source in SOURCES if source.lower() in plain), None)


def fits(name: str, wanted: str) -> bool:
    """True if a file can be the wanted one: of its kind, with its name, and in no folder of another source.

    Args:
        name: `<kind>/<any folders>/<basename>`, where it is.
        wanted: `<kind>/<source>/<basename>`, where it should be; in the flat layouts without a source.
    """
    kind, source, basename = place_of(wanted)
    if name == wanted:
        return True
    if not (name.startswith(f"{kind}/") and name.endswith(f"/{basename}")):
        return False
    folders = name[len(kind) + 1 : len(name) - len(basename)].split("/")
    # A repository's list of files comes from the network, and may not lead outside the data root.
    if ".." in folders:
        return False
    # Both sources may have a 12.mp4.
    return source is None or all(source_in(folder) in (None, source_in(source)) for folder in folders)


def place_of(wanted: str) -> tuple[str, str | None, str]:
    """(kind, source, basename) of a medium's place in one of the layouts."""
    parts = wanted.split("/")
    if parts[0] not in KINDS.values():
        return KINDS.get(PurePosixPath(wanted).suffix.lower(), ""), None, wanted
    if len(parts) == 2:
        return parts[0], None, parts[1]
    return parts[0], parts[1].removesuffix("_flatten"), "/".join(parts[2:])


class NameIndex:
    """Names of files, found by their last part: made once, since a walk for every question would take hours."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_last: dict[str, list[str]] = {}
        for name in names:
            self._by_last.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, wanted: str) -> list[str]:
        """Those that fit the wanted name, sorted."""
        return sorted(name for name in self._by_last.get(wanted.rpartition("/")[2], ()) if fits(name, wanted))

    def fitted(self, name: str) -> list[str]:
        """The other way round: those of the names, all wanted ones, that a file can be."""
        return [wanted for wanted in self._by_last.get(name.rpartition("/")[2], ()) if fits(name, wanted)]


class MediaFolder:
    """The media below one data root, as they are when they are first looked for."""

    def __init__(self, data_root: Path) -> None:
        self._root = data_root
        self._below: dict[str, NameIndex] = {}  # kind -> what lies there at any depth
        self._said = False  # that a name was found in its other Unicode form
        self._layouts: dict[tuple[str, str], tuple[str, ...]] = {}

    def _folders(self, kind: str, source: str) -> tuple[str, ...]:
        """Where such a file may lie, in the order of preference."""
        if (kind, source) not in self._layouts:
            root = self._root
            folders = (root / kind / source, root / kind / f"{source}_flatten", root / kind, root)
            self._layouts[kind, source] = tuple(map(str, folders))
        return self._layouts[kind, source]

    def locate(self, kind: str, source: str, basename: str) -> Path:
        """The file in the per-source layout, else in a flat one, else in a sub-folder; if nowhere, where it should be.

        A name with accents that is there in its other Unicode form (NFC, NFD) only is found too, with a warning: copies
        from a Mac and archives change the form, and nobody sees the difference.

        Raises:
            DataError: it is in two sub-folders, with different content.
        """
        for form in _unicode_forms(basename):
            if (found := self._find(kind, source, form)) is not None:
                if form != basename and not self._said:
                    self._said = True
                    log.warning("%s is there in another Unicode form than the annotations write, and is used", found)
                return found
        return Path(self._folders(kind, source)[0], basename)

    def _find(self, kind: str, source: str, basename: str) -> Path | None:
        root = self._root
        # Texts: a Path for each candidate of a million rows would take a minute.
        for folder in self._folders(kind, source):
            if os.path.exists(f"{folder}/{basename}"):
                return Path(folder, basename)
        if kind not in self._below:
            self._below[kind] = NameIndex(_files_below(root, kind))
        found = [root / name for name in self._below[kind].find(f"{kind}/{source}/{basename}")]
        for other in found[1:]:
            if not filecmp.cmp(found[0], other, shallow=False):
                raise DataError(
                    f"{found[0]} and {other} are different files, and either may be {kind}/{source}/{basename}. "
                    f"Fix: move the right one to {Path(self._folders(kind, source)[0], basename)}."
                )
        return found[0] if found else None


def _unicode_forms(name: str) -> list[str]:
    """The name, then its other forms of the same characters."""
    # Nearly all names are ASCII, and have one form.
    forms = [] if name.isascii() else [unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
    return list(dict.fromkeys([name, *forms]))


def in_another_case(missing: Iterable[Path]) -> dict[Path, Path]:
    """Of files that are not there, those whose names are there in capital or small letters, and what those are."""
    by_folder: dict[Path, dict[str, str]] = {}
    found = {}
    for path in missing:
        if path.parent not in by_folder:
            try:
                names = os.listdir(path.parent)
            except OSError:
                names = []  # not there, or not ours to read
            by_folder[path.parent] = {name.casefold(): name for name in names}
        if (name := by_folder[path.parent].get(path.name.casefold())) is not None:
            found[path] = path.with_name(name)
    return found


def _files_below(root: Path, kind: str) -> Iterator[str]:
    # Not os.walk, which in Python 3.11 ends at a thousand folders in one another.
    waiting, seen = [kind], set()
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
            status = os.stat(root / folder)
        except OSError:
            continue  # not there, or not ours to read: what lies in it is missing
        # Clips often lie behind a link to a larger disk; a link to a folder above would never end.
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        waiting += [f"{folder}/{entry.name}" for entry in entries if _is(entry.is_dir)]
        yield from (f"{folder}/{e.name}" for e in entries if not e.name.startswith(".") and _is(e.is_file))


def _is(what: Callable[[], bool]) -> bool:
    try:
        return what()
    except OSError:
        return False  # a link to itself is neither
