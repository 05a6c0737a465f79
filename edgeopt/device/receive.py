"""Take a file into `incoming`, from whatever brings it: what came before a cut is not sent again, nothing is ever torn.

The device says how much it holds and the digest of that; the sender, who knows what it should be, says where to go on:

    device  {"held": 4096, "sha256": "…"}
    sender  {"offset": 4096}              0 where the digest is that of something else
    sender  the other bytes
    device  the path

Until it is whole and hashed it is called `<sha256>.part`, so the same file goes on whoever sends it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeopt import files
from edgeopt.device.home import Home
from edgeopt.errors import DeviceError, DiskError, UsageError
from edgeopt.model import Value

#: what brings nothing for so long is gone, though its connection may look alive for hours
IDLE_SECONDS = 60.0

PART = ".part"
LOCK_FILE = "incoming.lock"

LONGEST_LINE = 1000

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_AGAIN = "send it again: it goes on from there"


class Held(Value):
    """How much of a file is there, and what its digest is."""

    held: int
    sha256: str


def receive(
    home: Home, name: str, size_bytes: int, sha256: str, source: int, tell: Callable[[Held], object]
) -> Path:  # fmt: skip
    """Take a file in.

    Args:
        source: the descriptor that the sender's line and bytes come from.
        tell: brings the sender what is held.

    Returns:
        Where it lies: in `incoming`, as `name`.

    Raises:
        UsageError: it cannot be called that.
        DeviceError: the sender stopped; what came is kept. Or what came is not what was announced; then it is not.
        DiskError: it would not fit.
    """
    path, part = home.incoming / name, home.incoming / f"{sha256}{PART}"
    if not _NAME.fullmatch(name) or name.endswith(PART):
        raise UsageError(f"a file that is sent cannot be called `{name}`", "use letters, digits, `.`, `_`, `+` and `-`")
    with files.lock(home.folder / LOCK_FILE):
        if path.is_file() and files.hash_file(path) == sha256:
            part = path  # it came earlier, and nobody has heard of it
        held, digest = _hash(part)
        tell(Held(held=held, sha256=digest.hexdigest()))
        offset = _read_offset(source, held)
        digest = digest if offset else hashlib.sha256()
        _check_space(home.incoming, size_bytes - held)
        if offset < size_bytes:
            with files.append(part) as stream:
                stream.truncate(offset)
                for chunk in _read_chunks(source, offset, size_bytes):
                    stream.write(chunk)
                    digest.update(chunk)
        if digest.hexdigest() != sha256:
            files.remove(part)
            raise DeviceError(f"what came is not the `{name}` that was announced", "send it again")
        if part != path:
            files.publish_file(part, path)
    return path


def _hash(path: Path) -> tuple[int, hashlib._Hash]:
    """The size and the running digest of a file, nothing where it is not there."""
    size_bytes, digest = 0, hashlib.sha256()
    if path.is_file():
        with path.open("rb") as stream:
            while chunk := stream.read(files.CHUNK_BYTES):
                size_bytes += len(chunk)
                digest.update(chunk)
    return size_bytes, digest


def _read_offset(source: int, held: int) -> int:
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        line += _read(source, 1) or b"\n"
    try:
        offset = json.loads(line)["offset"]
    except (ValueError, TypeError, KeyError) as error:
        raise DeviceError("whoever sends has not said where to go on", _AGAIN) from error
    if offset not in (0, held):
        raise DeviceError(f"whoever sends would go on at {offset}, and {held} bytes are here", "send it again")
    return int(offset)


def _read_chunks(source: int, offset: int, size_bytes: int) -> Iterator[bytes]:
    while offset < size_bytes:
        chunk = _read(source, min(files.CHUNK_BYTES, size_bytes - offset))
        if not chunk:
            raise DeviceError(f"cut after {offset} of {size_bytes} bytes", _AGAIN)
        offset += len(chunk)
        yield chunk


def _read(source: int, most_bytes: int) -> bytes:
    """What has come, nothing at the end."""
    if not select.select([source], [], [], IDLE_SECONDS)[0]:
        raise DeviceError(f"nothing came for {IDLE_SECONDS:.0f} seconds", _AGAIN)
    return os.read(source, most_bytes)


def _check_space(folder: Path, needed_bytes: int) -> None:
    disk = os.statvfs(folder)
    free_bytes = disk.f_bavail * disk.f_frsize
    if needed_bytes > free_bytes:
        what = f"no space left on the disk: {needed_bytes / 1e6:.1f} MB more are needed, {free_bytes / 1e6:.1f} MB free"
        raise DiskError(what, "`edgeopt device gc` frees what is not used")
