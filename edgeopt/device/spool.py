"""Snapshots of the metrics of a device that nobody can scrape, kept until a host fetches them, within a limit.

Each is one small file named by its number, which rises by one, so a kill or a power cut leaves a snapshot whole or not
there. Where they would take more than the limit the oldest go; how many went is seen by the numbers that are missing. A
host reads them all and then has the device forget them up to a number: what it has not got is not lost if the line
breaks.

    spool/000000000041.json     {"at", "number", "text"}
    spool/forgotten.json        up to which number a host has them, and how many were dropped before it had
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from edgeopt import files
from edgeopt.device.home import Home
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Value, canonical_json

SPOOL = "spool"
#: what has been fetched
FORGOTTEN_FILE, LOCK_FILE = "forgotten.json", "lock"

LIMIT_BYTES = 8_000_000

#: a disk gives a file whole blocks
BLOCK_BYTES = 4096


class Snapshot(Value):
    """The metrics as they were; `at` is seconds since 1970 by the clock of the device."""

    number: int
    at: float
    text: str


class Spooled(Value):
    """What a device has kept.

    `dropped` counts what went for the limit since it was made and `damaged` what lies there and cannot be read.
    """

    snapshots: tuple[Snapshot, ...]
    dropped: int
    damaged: int


class _Forgotten(Value):
    number: int = 0
    dropped: int = 0


class Spool:
    """The spool in a device's home; it may be used by several processes at once."""

    def __init__(self, home: Home, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit_bytes = home.folder / SPOOL, limit_bytes

    def add(self, text: str, at: float | None = None) -> int:
        """Keep a snapshot, and drop the oldest if they take too much; returns its number.

        Raises:
            DiskError: the disk is full.
        """
        with self._held():
            numbers, forgotten = self._numbers(), self._forgotten()
            number = max([forgotten.number, *numbers]) + 1
            snapshot = Snapshot(number=number, at=round(time.time() if at is None else at, 3), text=text)
            files.write_bytes(self._path(number), canonical_json(snapshot.model_dump(mode="json")))
            self._drop([*numbers, number], forgotten)
        return number

    def read(self) -> Spooled:
        """All snapshots that no host has, oldest first."""
        with self._held():
            forgotten = self._forgotten()
            numbers = [number for number in self._numbers() if number > forgotten.number]
            found = [self._load(number) for number in numbers]
        return Spooled(
            snapshots=tuple(one for one in found if one is not None),
            dropped=forgotten.dropped + _missing(numbers, forgotten), damaged=found.count(None),
        )  # fmt: skip

    def forget(self, number: int) -> int:
        """Remove all up to `number`, because a host has them; returns how many.

        Raises:
            UsageError: there never was a snapshot of that number.
        """
        with self._held():
            numbers, forgotten = self._numbers(), self._forgotten()
            newest = max([forgotten.number, *numbers])
            if not 0 <= number <= newest:
                raise UsageError(f"there is no snapshot {number}", f"the newest is {newest}")
            gone = [one for one in numbers if one <= number]
            if number > forgotten.number:
                dropped = forgotten.dropped + min(_missing(numbers, forgotten), number - forgotten.number)
                mark = _Forgotten(number=number, dropped=dropped)
                files.write_bytes(self._folder / FORGOTTEN_FILE, canonical_json(mark.model_dump(mode="json")))
            for one in gone:
                files.remove(self._path(one))
        return len(gone)

    def newest(self) -> Snapshot | None:
        """The last snapshot that is here."""
        with self._held():
            found = (self._load(number) for number in reversed(self._numbers()))
            return next((one for one in found if one is not None), None)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with files.lock(self._folder / LOCK_FILE):
            files.sweep(self._folder)
            yield

    def _drop(self, numbers: list[int], forgotten: _Forgotten) -> None:
        """Remove what a host has and the oldest beyond the limit; the newest stays."""
        sizes = {number: -(-self._path(number).stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for number in numbers}
        taken = sum(sizes.values())
        for number in numbers[:-1]:
            if number > forgotten.number and taken <= self._limit_bytes:
                return
            files.remove(self._path(number))
            taken -= sizes[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("[0-9]*.json"))

    def _load(self, number: int) -> Snapshot | None:
        """A snapshot; None where its bytes are not what was written."""
        try:
            return Snapshot.model_validate_json(self._path(number).read_bytes())
        except ValidationError:
            return None

    def _forgotten(self) -> _Forgotten:
        path = self._folder / FORGOTTEN_FILE
        try:
            return _Forgotten.model_validate_json(path.read_bytes()) if path.is_file() else _Forgotten()
        except ValidationError as error:
            hint = "remove it: snapshots that a host has are then sent again"
            raise TrustError(f"`{path}` cannot be read", hint) from error


def _missing(numbers: list[int], forgotten: _Forgotten) -> int:
    """How many were dropped since a host last had some: their numbers come before the oldest that is there."""
    fresh = [number for number in numbers if number > forgotten.number]
    return fresh[0] - forgotten.number - 1 if fresh else 0
