"""Finished steps, found again by key.

    <root>/steps/<key>/entry.json     what the step was, the parts of its key, its result, every file with its digest
    <root>/steps/<key>/files/         what it wrote
    <root>/checkpoints/<key>/         the state of a step that has not finished
    <root>/memos/                     what saves steps work that another one has done; checked, and never a result
    <root>/latest/<slot>.json         step id → key of its last run: what `cache why` compares with
    <root>/locks/                     kernel locks; never deleted

A result appears by rename after fsync, is hashed again on every read, and is never written for a failure. Concurrent
runs share the store: whoever comes second to a step waits and takes the result of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from edgeopt import files
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Value, canonical_json

ENTRY_FILE = "entry.json"

_PARTS_BY_STEP = TypeAdapter(dict[str, dict[str, str]])


class Entry(Value):
    """A finished step. `parts` are what its key was made of; `files` maps a relative path to its digest.

    `seal` is the digest of all the rest: a damaged entry must not pass for another result.
    """

    key: str
    step: str
    parts: dict[str, str]
    result: dict[str, Any]
    seconds: float
    created: float
    files: dict[str, str]
    seal: str = ""

    def digest(self) -> str:
        """What `seal` should be."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude={"seal"}))).hexdigest()


@dataclass(frozen=True)
class Found:
    """An entry and the folder of its files."""

    entry: Entry
    folder: Path


def default_root() -> Path:
    """`$EDGEOPT_CACHE`, or `edgeopt` in the user's cache folder.

    Raises:
        UsageError: the user has no home folder, as in some containers.
    """
    if named := os.environ.get("EDGEOPT_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeopt"
    except RuntimeError as error:
        raise UsageError("no home folder to keep finished steps in", "name a folder in `EDGEOPT_CACHE`") from error


def recipe_slot(path: Path, name: str) -> str:
    """What a recipe's run is remembered under: its name, and its place, since two recipes may have one name."""
    return f"{name}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"


class Store:
    """The finished steps under one folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        self.notes: list[str] = []

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `gc` away while a run reads entries; first clear up after runs that died, unless another one goes on."""
        use = self.root / "locks" / "use"
        with files.lock(use, wait=False) as alone:
            if alone:
                self._sweep()
        with files.lock(use, shared=True):
            yield

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold a step for oneself, waiting for whoever is working on it."""
        with files.lock(self.root / "locks" / key):
            yield

    def has(self, key: str) -> bool:
        """Whether the step is there, without reading it."""
        return (self._folder(key) / ENTRY_FILE).is_file()

    def find(self, key: str) -> Found | None:
        """The finished step, its files read and checked; a damaged one is removed with a note, and is not found."""
        folder = self._folder(key)
        if not self.has(key):
            return None
        try:
            found = Found(_verified(folder, key), folder / "files")
        except TrustError as error:
            self.notes.append(f"{error.message}: done again")
            files.remove(folder)
            return None
        self.forget_checkpoints(key)
        return found

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for a step to write into: `put` publishes it."""
        with files.scratch(self.root / "steps") as scratch:
            files.make_folder(scratch / "files")
            yield scratch / "files"

    def put(
        self, key: str, step: str, parts: dict[str, str], result: dict[str, Any], seconds: float, folder: Path
    ) -> Found:
        """Publish what a step left in its workspace, and forget its checkpoints."""
        digests = {str(path.relative_to(folder)): files.hash_file(path) for path in _files_in(folder)}
        entry = Entry(
            key=key, step=step, parts=parts, result=result, seconds=seconds, created=time.time(), files=digests
        )
        entry = entry.model_copy(update={"seal": entry.digest()})
        files.write_bytes(folder.parent / ENTRY_FILE, canonical_json(entry.model_dump(mode="json")))
        files.publish(folder.parent, self._folder(key))
        self.forget_checkpoints(key)
        return Found(entry, self._folder(key) / "files")

    @property
    def memos(self) -> Path:
        """Where steps keep what saves others work."""
        return self.root / "memos"

    def checkpoints(self, key: str) -> Path:
        """Where a step keeps the state that survives a kill."""
        return self.root / "checkpoints" / key

    def remember(self, slot: str, keys: dict[str, dict[str, str]]) -> None:
        """Note the key parts of a recipe's steps, so that `why` can compare a later plan with them."""
        files.write_bytes(self.root / "latest" / f"{slot}.json", canonical_json(keys))

    def recall(self, slot: str) -> dict[str, dict[str, str]]:
        """What `remember` noted last: step id → parts of its key; empty if nothing was."""
        path = self.root / "latest" / f"{slot}.json"
        if not path.is_file():
            return {}
        try:
            return _PARTS_BY_STEP.validate_json(path.read_bytes())
        except (OSError, ValueError):
            self.notes.append(f"`{path}` is damaged and was left out")
            return {}

    def entries(self) -> Iterator[tuple[Path, Entry | None]]:
        """Every entry with its folder, unchecked; None where the entry cannot be read."""
        for folder in sorted((self.root / "steps").glob("*")):
            if not folder.name.startswith(files.TEMPORARY):
                yield folder, _readable(folder)

    def history(self, slot: str) -> dict[str, list[dict[str, str]]]:
        """Step id → the parts of each run known of it: the recipe's last one first, then what is stored."""
        found = {step: [parts] for step, parts in self.recall(slot).items()}
        for _, entry in self.entries():
            if entry is not None:
                found.setdefault(entry.step, []).append(entry.parts)
        return found

    def verify(self) -> list[str]:
        """Check every entry's files; returns what is wrong, one line each."""
        wrong = []
        for folder, _ in self.entries():
            try:
                _verified(folder, folder.name)
            except TrustError as error:
                wrong.append(error.message)
        return wrong

    def collect(self, older_than_days: float) -> tuple[int, int] | None:
        """Remove what is older than that; returns how many entries and their bytes, or None while a run is going on."""
        with files.lock(self.root / "locks" / "use", wait=False) as held:
            if not held:
                return None
            limit, count, size = time.time() - older_than_days * 86400, 0, 0
            for place in (path for name in ("steps", "checkpoints", "memos") for path in (self.root / name).glob("*")):
                if place.stat().st_mtime < limit:
                    size += size_of(place) if place.is_dir() else place.stat().st_size
                    count += 1
                    files.remove(place)
            return count, size

    def forget_checkpoints(self, key: str) -> None:
        if self.checkpoints(key).exists():
            files.remove(self.checkpoints(key))

    def _sweep(self) -> None:
        places = ("steps", "latest", "digests", "checkpoints", "memos")
        for folder in (self.root, *(self.root / place for place in places), *self.root.glob("checkpoints/*")):
            files.sweep(folder)

    def _folder(self, key: str) -> Path:
        return self.root / "steps" / key


def why(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The parts in which two keys of one step differ, as short sentences."""
    changed = [f"{name} changed" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
    return [*changed, *(f"{name} is new" for name in sorted(new.keys() - old.keys())),
            *(f"{name} is gone" for name in sorted(old.keys() - new.keys()))]  # fmt: skip


def why_nearest(known: Sequence[dict[str, str]], new: dict[str, str]) -> list[str] | None:
    """`why`, beside the run of `known` that differs least, the first of several; None if there is none."""
    return min((why(old, new) for old in known), key=len, default=None)


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in _files_in(folder))


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _readable(folder: Path) -> Entry | None:
    try:
        return Entry.model_validate_json((folder / ENTRY_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def _verified(folder: Path, key: str) -> Entry:
    entry = _readable(folder)
    if entry is None or entry.key != key or entry.seal != entry.digest():
        raise TrustError(f"the stored step `{key[:12]}` is damaged")
    found = {str(path.relative_to(folder / "files")) for path in _files_in(folder / "files")}
    if found != set(entry.files):
        raise TrustError(f"the stored step `{entry.step}` ({key[:12]}) has lost or gained files")
    for name, digest in entry.files.items():
        if _hash(folder / "files" / name) != digest:
            raise TrustError(f"`{name}` of the stored step `{entry.step}` ({key[:12]}) does not have its digest")
    return entry


def _hash(path: Path) -> str:
    """The digest of a file; empty where it cannot be read."""
    try:
        return files.hash_file(path)
    except OSError:
        return ""
