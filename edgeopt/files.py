"""The only place that mutates files: atomic, fsynced, and open to faults that tests inject.

A file or folder appears under its final name by a rename after its bytes are on the disk, so a reader sees the old
content or the new and nothing between. Temporary names carry the process that made them, when it started, and the
machine and container whose numbers these are, so that `sweep` removes what dead processes left even where their number
is in use again, and nothing that lives on another machine or in another container.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgeopt.errors import DiskError, MissingError, UsageError

TEMPORARY = ".edgeopt-tmp-"
#: place, process, when it started, a random token; `sweep` touches nothing else
TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + r"([0-9a-f]{12})-([0-9]{1,7})-([0-9]+|untold|dead)-[0-9a-f]{12}")

#: whether a process of another place lives cannot be seen, but none leaves a temporary name alone for so long
FOREIGN_SECONDS = 86_400.0

CHUNK_BYTES = 1 << 20

UNTOLD = "untold"

#: what is wrong with the place, not with the disk
UNWRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _observe_nothing(operation: str, path: Path) -> None:
    """Called before each mutation; tests put a function here that raises or kills."""


observe: Callable[[str, Path], None] = _observe_nothing


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write `data` to `path` atomically and durably; the folder is made if it is missing.

    Args:
        mode: who may read and write it, in place of what the process gives to all files; it is so from the first byte.

    Raises:
        DiskError: the disk is full.
        UsageError: the place cannot be written.
    """
    with _named_errors(path):
        make_folder(path.parent)
        temporary = _temporary(path.parent)
        try:
            observe("write", path)
            with temporary.open("xb") as stream:
                if mode is not None:
                    os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            observe("rename", path)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def spill(parent: Path, chunks: Iterable[bytes]) -> BinaryIO:
    """Write what is too large for memory into a nameless file in `parent`, and return it open for reading.

    The system frees it when it is closed, however the process ends: it cannot be left over.
    """
    with _named_errors(parent):
        make_folder(parent)
        stream = tempfile.TemporaryFile(dir=parent)  # noqa: SIM115 -- whoever asked for it closes it
        try:
            for chunk in chunks:
                observe("write", parent)
                stream.write(chunk)
            stream.flush()
        except BaseException:
            stream.close()
            raise
    return stream


def copy(source: Path, destination: Path) -> None:
    """Copy one file; the destination appears whole or not at all."""
    with _named_errors(destination):
        make_folder(destination.parent)
        temporary = _temporary(destination.parent)
        try:
            observe("copy", destination)
            shutil.copyfile(source, temporary)
            _sync_file(temporary)
            observe("rename", destination)
            temporary.replace(destination)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(destination.parent)


@contextlib.contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """A new file to stream into, inside a folder that `publish` will sync and show; nothing may stand there yet.

    Raises:
        UsageError: something stands there, if only a link.
    """
    make_folder(path.parent)
    with _named_errors(path):
        observe("write", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as stream:
            yield stream


@contextlib.contextmanager
def append(path: Path) -> Iterator[BinaryIO]:
    """A file that grows over several tries, as what is fetched does: what a cut leaves of it is there for the next one.

    It is this process's alone until the end, stands open for reading, too, and writes behind what it holds.
    `publish_file` shows it under its name.

    Raises:
        UsageError: another process writes it, or a link stands there.
    """
    make_folder(path.parent)
    with _named_errors(path):
        observe("write", path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o644), "a+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_there = path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.lstat())
            except BlockingIOError:
                is_there = False
            if not is_there:  # whoever had it may have published it since
                raise UsageError(f"another process writes `{path}`", "let it finish, then run again")
            yield stream


def publish_file(path: Path, destination: Path) -> None:
    """Rename a file, with all its bytes on the disk, to `destination` beside it, in place of what stood there."""
    with _named_errors(destination):
        _sync_file(path)
        observe("rename", destination)
        path.replace(destination)
        _sync_folder(destination.parent)


def make_folder(path: Path) -> None:
    """Make `path` and its parents, each made durable in its parent."""
    if path.is_dir():
        return
    with _named_errors(path):
        make_folder(path.parent)
        observe("mkdir", path)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make durable which names `path` holds: a process that was killed may have put one there and come no further."""
    with _named_errors(path):
        _sync_folder(path)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A fresh folder inside `parent`, gone at the end unless it was published."""
    make_folder(parent)
    folder = _temporary(parent)
    with _named_errors(folder):
        observe("mkdir", folder)
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, destination: Path) -> None:
    """Rename `folder`, with all its bytes on the disk, to `destination`; a folder that stood there is replaced.

    The folder and the destination must lie on one file system: make the folder with `scratch(destination.parent)`.
    """
    with _named_errors(destination):
        make_folder(destination.parent)
        _sync_tree(folder)
        observe("rename", destination)
        if destination.is_dir():
            _exchange(folder, destination)
            _sync_folder(destination.parent)
            _delete(folder)
        else:
            folder.rename(destination)
            _sync_folder(destination.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder; a folder vanishes from its name at once, then is emptied."""
    with _named_errors(path):
        observe("remove", path)
        if path.is_dir() and not path.is_symlink():
            aside = _temporary(path.parent)
            path.rename(aside)
            path = aside
        _delete(path)


def sweep(parent: Path) -> int:
    """Remove what dead processes left in `parent` under temporary names; returns how many things.

    What a process of another machine or container left goes when it has lain untouched for a day. What cannot be
    removed, as another user's, stays.
    """
    swept = 0
    for path in parent.glob(f"{TEMPORARY}*"):
        if (name := TEMPORARY_NAME.fullmatch(path.name)) and _left_over(path, *name.groups()):
            observe("remove", path)
            with contextlib.suppress(OSError):
                _delete(path)
                swept += 1
    return swept


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the kernel's lock on `path`, which is never deleted; yields False where `wait` is off and it was taken.

    The kernel releases it when the holder dies, however it dies, so no lock is ever stale.
    """
    make_folder(path.parent)
    with _named_errors(path):
        # One that is there is only read: it may be another user's.
        stream = path.open("rb") if path.exists() else path.open("a+b")
    with stream:
        mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(stream, mode)
        except BlockingIOError:
            yield False
            return
        yield True


def this_process() -> str:
    """What tells this process from any other, of any boot and machine; `has_ended` reads it."""
    process = os.getpid()
    return f"{_place()}-{process}-{_started(process)}"


def has_ended(process: str) -> bool:
    """Whether a process lives no more, as far as can be seen: what is of another boot, machine or container does not.

    Args:
        process: as `this_process` told it there.
    """
    place, number, started = process.split("-")
    return place != _place() or _started(int(number)) not in (started, UNTOLD)


def _temporary(parent: Path) -> Path:
    return parent / f"{TEMPORARY}{this_process()}-{secrets.token_hex(6)}"


def _left_over(path: Path, place: str, process: str, started: str) -> bool:
    if place == _place():
        return _started(int(process)) not in (started, UNTOLD)
    try:
        return path.lstat().st_mtime < time.time() - FOREIGN_SECONDS
    except OSError:  # somebody else has swept it
        return False


@functools.cache
def _place() -> str:
    """A digest of what makes a process number mean something: the machine, its boot, and the container's numbering."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _started(process: int) -> str:
    """When a living process started, in the kernel's ticks (`UNTOLD` where it does not say); `dead` for a dead one."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        pass  # it lives, and belongs to somebody else
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return UNTOLD
    return "dead" if state in "ZX" else fields[18]


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder; another process may be deleting it too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(folder: Path, destination: Path) -> None:
    """Swap two folders in one step where the kernel can, else put the old one back if the second step fails."""
    library = ctypes.CDLL(None, use_errno=True)
    paths = (_AT_FDCWD, os.fsencode(folder), _AT_FDCWD, os.fsencode(destination))
    if hasattr(library, "renameat2") and library.renameat2(*paths, _RENAME_EXCHANGE) == 0:
        return
    aside = _temporary(destination.parent)
    destination.rename(aside)
    try:
        folder.rename(destination)
    except BaseException:
        aside.rename(destination)
        raise
    aside.rename(folder)


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_folder(path) if path.is_dir() else _sync_file(path)
    _sync_folder(folder)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"no space left on the disk for `{path}`") from error
        if error.errno == errno.EIO:
            raise MissingError(
                f"the disk failed at `{path}`: {error.strerror}", "check the disk, then run again"
            ) from error
        if error.errno in UNWRITABLE:
            hint = "choose another folder: with `--out`, or `EDGEOPT_CACHE` for the store"
            raise UsageError(f"cannot write `{path}`: {error.strerror}", hint) from error
        raise
