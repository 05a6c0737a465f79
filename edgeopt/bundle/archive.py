"""The one-file form of a bundle: an uncompressed zip whose every byte follows from the content.

The release that was signed comes first, where there is one, then the manifest, the files in its order, and zip's
directory; dates, permissions and versions are fixed, nothing is compressed, nothing optional is used. Any unzip tool
opens it, but `open_archive` is not one: once it has read the manifest it knows what each further byte that is not
content must be, so there is no second reading of the file to fall for. A member that is extra, repeated, renamed,
linked, compressed or encrypted is simply not what must stand there. It reads forward only, in chunks.

For the way, the whole file may be packed into one `.xz` stream (see `edgeopt.compression`). That is unpacked as it is
read, and the archive says how much there is to read: a stream that would give more is not read on, however small.

The layout is PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory) and 4.3.16 (end).
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from edgeopt.bundle.manifest import MANIFEST_FILE, MANIFEST_LIMIT_BYTES, RELEASE_FILE, RELEASE_LIMIT_BYTES, Manifest
from edgeopt.errors import MissingError, TrustError, UsageError
from edgeopt.files import CHUNK_BYTES
from edgeopt.model import ArtifactFile

#: what an `.xz` stream begins with
COMPRESSED_MAGIC = b"\xfd7zXZ\0"

#: given a listed file, a block in which its chunks can be passed on
Receive = Callable[[ArtifactFile], AbstractContextManager[Callable[[bytes], object]]]

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")

_VERSION = 10  # all that stored files need
_MADE_BY_UNIX = 3 << 8 | _VERSION
_FIRST_OF_1980 = 1 << 5 | 1
_PLAIN_FILE = 0o100644 << 16


class Readable(Protocol):
    """What is read forward."""

    def read(self, count: int, /) -> bytes: ...


@dataclass(frozen=True)
class _Entry:
    """A member as the zip's headers describe it."""

    name: str
    size_bytes: int
    crc: int

    def local(self) -> bytes:
        return _LOCAL.pack(b"PK\3\4", *self._shared(), 0) + self.name.encode()

    def central(self, offset: int) -> bytes:
        rest = (0, 0, 0, 0, _PLAIN_FILE, offset)
        return _CENTRAL.pack(b"PK\1\2", _MADE_BY_UNIX, *self._shared(), *rest) + self.name.encode()

    def _shared(self) -> tuple[int, ...]:
        size, length = self.size_bytes, len(self.name.encode())
        return _VERSION, 0, 0, 0, _FIRST_OF_1980, self.crc, size, size, length


def pack_members(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The zip of these members in this order; the same members give the same bytes."""
    entries = [_Entry(name, len(content), zlib.crc32(content)) for name, content in members]
    parts = [part for entry, (_, content) in zip(entries, members, strict=True) for part in (entry.local(), content)]
    return b"".join([*parts, _directory(entries)])


class Archive:
    """A bundle file of which the release and the manifest are read, and nothing else yet.

    Attributes:
        release: the envelope that was signed, as it stands; None where nobody has signed.
        manifest: sound in itself; who says so is for whoever reads on to find out first.
    """

    def __init__(self, stream: Readable, path: Path) -> None:
        self._reader = _Reader(stream, path)
        self.release, self.manifest, self._entries = self._reader.read_head()

    def read_files(self, receive: Receive) -> None:
        """Read on to the last byte of the file, and pass each listed file on as it comes.

        What was passed on is proven only once this returns.

        Raises:
            TrustError: it is not, byte for byte, what its manifest says.
        """
        for file in self.manifest.files:
            with receive(file) as pass_on:
                self._entries.append(self._reader.read_file(file, pass_on))
        self._reader.expect(_directory(self._entries), "directory")
        self._reader.expect_end()


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a bundle file, compressed or not, and read as far as its manifest.

    Raises:
        UsageError: there is no such file.
        TrustError: it does not begin as a bundle does.
    """
    if not path.is_file():
        raise UsageError(f"there is no bundle file `{path}`", "give a `.edgeopt` file or a bundle's folder")
    with path.open("rb") as stream:
        if not _begins_compressed(stream):
            yield Archive(stream, path)
            return
        with _decompressed(stream, path) as whole:
            yield Archive(whole, path)


def is_compressed(path: Path) -> bool:
    """Whether a file is packed into an `.xz` stream, by how it begins."""
    with path.open("rb") as stream:
        return _begins_compressed(stream)


def _begins_compressed(stream: BinaryIO) -> bool:
    magic = stream.read(len(COMPRESSED_MAGIC))
    stream.seek(0)
    return magic == COMPRESSED_MAGIC


@contextlib.contextmanager
def _decompressed(stream: BinaryIO, path: Path) -> Iterator[Readable]:
    """The content of an `.xz` stream.

    Raises:
        TrustError: something is wrong with it, wherever in the block that shows.
        MissingError: this Python has no liblzma.
    """
    try:
        import lzma  # not in every Python, and needed by nobody else on a device

        from edgeopt.compression import Decompressed
    except ModuleNotFoundError as error:
        hint = "unpack it with `xz -d` first, or ship it as it is"
        raise MissingError(f"`{path}` is compressed, and this Python was built without liblzma", hint) from error
    try:
        yield Decompressed(stream)
    except lzma.LZMAError as error:
        what = str(error)[:1].lower() + str(error)[1:]
        raise TrustError(f"`{path}` is not soundly compressed: {what}", _AGAIN) from error


def _directory(entries: Sequence[_Entry]) -> bytes:
    offset, records = 0, []
    for entry in entries:
        records.append(entry.central(offset))
        offset += len(entry.local()) + entry.size_bytes
    size, count = sum(len(record) for record in records), len(records)
    return b"".join([*records, _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)])


_AGAIN = "get the bundle again from where it was made"


def _name_length(header: bytes) -> int:
    length: int = struct.unpack_from("<H", header, 26)[0]
    return length


class _Reader:
    """Reads a stream forward and refuses the first byte that should not be there."""

    def __init__(self, stream: Readable, path: Path) -> None:
        self._stream = stream
        self._path = path

    def read_head(self) -> tuple[bytes | None, Manifest, list[_Entry]]:
        """The release, where there is one, and the manifest behind it."""
        header = self._stream.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
            raise TrustError(f"`{self._path}` is not a bundle", "make one with `edgeopt bundle pack`")
        release, entries = None, []
        if _name_length(header) == len(RELEASE_FILE):
            entry, release = self._read_small(header, RELEASE_FILE, RELEASE_LIMIT_BYTES, "release")
            entries, header = [entry], self._exactly(_LOCAL.size)
        entry, manifest = self._read_small(header, MANIFEST_FILE, MANIFEST_LIMIT_BYTES, "manifest")
        return release, Manifest.parse(manifest), [*entries, entry]

    def _read_small(self, header: bytes, name: str, limit_bytes: int, what: str) -> tuple[_Entry, bytes]:
        """A member that is read into memory: its header was read, its name and content follow."""
        crc, size = struct.unpack_from("<II", header, 14)
        entry = _Entry(name, size, crc)
        if header + self._exactly(len(name)) != entry.local():
            raise self._refused(f"does not begin with a plain `{name}`")
        if size > limit_bytes:
            raise self._refused(f"has a {what} of {size} bytes, at most {limit_bytes} are allowed")
        content = self._exactly(size)
        if zlib.crc32(content) != crc:
            raise self._refused(f"has a damaged {what}")
        return entry, content

    def read_file(self, file: ArtifactFile, pass_on: Callable[[bytes], object]) -> _Entry:
        header = self._exactly(_LOCAL.size)
        entry = _Entry(file.path, file.size_bytes, struct.unpack_from("<I", header, 14)[0])
        if header + self._exactly(len(file.path)) != entry.local():
            raise self._refused(f"has something else where `{file.path}` should be")
        digest, crc, left = hashlib.sha256(), 0, file.size_bytes
        while left:
            chunk = self._exactly(min(left, CHUNK_BYTES))
            digest.update(chunk)
            crc = zlib.crc32(chunk, crc)
            pass_on(chunk)
            left -= len(chunk)
        if digest.hexdigest() != file.sha256 or crc != entry.crc:
            raise self._refused(f"holds a `{file.path}` that is not the one its manifest names")
        return entry

    def expect(self, content: bytes, what: str) -> None:
        if self._exactly(len(content)) != content:
            raise self._refused(f"has a {what} that does not fit its manifest")

    def expect_end(self) -> None:
        if self._stream.read(1):
            raise self._refused("goes on after its end")

    def _exactly(self, count: int) -> bytes:
        content = self._stream.read(count)
        if len(content) != count:
            raise self._refused("is cut short")
        return content

    def _refused(self, what: str) -> TrustError:
        return TrustError(f"`{self._path}` {what}", _AGAIN)
