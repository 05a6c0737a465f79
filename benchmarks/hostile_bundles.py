"""Bundles that want out of their folder, or to pass for what they are not: does any byte of them get anywhere?

    tried = try_hostile(publisher, folder, make_hostile(publisher, folder))

All are made without a key, from a bundle that was signed; `hostile_manifests.py` has those that the right key signs.
"""

from __future__ import annotations

import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.hostile_manifests import Members, Write, as_file, members_of
from benchmarks.shipments import Publisher
from edgeopt.bundle.archive import pack_members
from edgeopt.bundle.manifest import MANIFEST_FILE
from edgeopt.compression import compress
from edgeopt.device.install import install
from edgeopt.errors import TrustError

Change = Callable[[zipfile.ZipInfo], object]

#: of members: links, setuid, executable, block and character devices, pipes, folders, sockets
MODES = (0o120777, 0o104755, 0o100777, 0o060644, 0o020644, 0o010644, 0o040755, 0o140755)
FLAGS = {"encrypted": 0x1, "trailing sizes": 0x8, "strongly encrypted": 0x40, "utf-8": 0x800}


@dataclass
class Tried:
    """What came of it, and a line for each fault."""

    name: str
    count: int = 0
    outside: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    #: something else than a plain refusal
    stumbled: list[str] = field(default_factory=list)


def try_hostile(name: str, publisher: Publisher, scratch: Path, hostile: Iterable[tuple[str, Write]]) -> Tried:
    """Install each on a device that runs a sound release, and look at all that lies around it."""
    tried, ground = Tried(name), scratch / "ground" / name
    home = publisher.make_device(ground / "apps" / "device")
    install(home, publisher.publish(1))
    path = ground / "hostile.edgeopt"
    for what, write in hostile:
        tried.count += 1
        path.unlink(missing_ok=True)
        write(path)
        before = _surroundings(ground)
        try:
            install(home, path)
        except TrustError as error:
            if "\n" in error.message:
                tried.stumbled.append(f"{what}: more than one line")
        except Exception as error:  # whatever it is, it is a fault that is counted
            tried.stumbled.append(f"{what}: {type(error).__name__}: {error}")
        else:
            tried.wrong.append(what)
        tried.outside += [f"{what}: {name}" for name in sorted(_surroundings(ground) ^ before)]
    return tried


def _surroundings(ground: Path) -> set[tuple[str, int, int]]:
    """All that there is, but the times of folders."""
    stats = ((path, path.lstat()) for path in ground.rglob("*"))
    return {(str(path), stat.st_mode, 0 if path.is_dir() else stat.st_mtime_ns) for path, stat in stats}


# what is tried


def make_prefixes(data: bytes, step: int) -> Iterator[tuple[str, Write]]:
    for length in (*range(0, len(data), step), len(data) - 1):
        yield f"the first {length} bytes", as_file(data[:length])


def make_flips(data: bytes, count: int) -> Iterator[tuple[str, Write]]:
    numbers = random.Random(0)
    for _ in range(count):
        place, mask = numbers.randrange(len(data)), numbers.randrange(1, 256)
        flipped = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
        yield f"byte {place} ^ {mask}", as_file(flipped)


def make_hostile(publisher: Publisher, counter: int = 2) -> Iterator[tuple[str, Write]]:
    """One of each kind, most of them several: names of what it is, and what writes it."""
    bundle = publisher.publish(counter)
    release, members = members_of(bundle)
    for number, hostile in enumerate(hostile_members(members)):
        yield f"members {number}", as_file(pack_members([release, *hostile]))
        yield f"members {number}, by zip", as_file(zipped([release, *hostile]))
    whole = [release, *members]
    for mode in MODES:
        yield f"mode {mode:o}", as_file(zipped(whole, set_mode(mode)))
    yield "compressed", as_file(zipped(whole, lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED)))
    yield from _headers(bundle.read_bytes(), members)
    yield from _compressed(bundle.read_bytes())
    yield from _tars(members)


def hostile_members(members: Members) -> Iterator[Members]:
    """Members that the manifest, which is the first, does not describe."""
    manifest, first, *rest = members
    yield [*members, ("extra.bin", b"extra")]
    yield [*members, first]
    yield [manifest, first, first, *rest]
    yield [manifest, manifest, first, *rest]
    yield [first, manifest, *rest]
    yield [manifest, *rest]
    yield [manifest, *rest, first]
    yield [("extra.bin", b"extra"), *members]
    for name in ("../escaped", "/tmp/escaped", "model/../../escaped", "./x", "a\\..\\b", "", "CON", "GOLDEN.NPZ"):
        yield [*members, (name, b"x")]
        yield [manifest, (name, first[1]), *rest]
    yield [manifest, (first[0] + "/", first[1]), *rest]
    yield [("manifest.json", b"{}"), first, *rest]
    yield [("manifest.json", b""), first, *rest]
    yield [("manifest.json", manifest[1] + b" "), first, *rest]
    yield [manifest, (first[0], first[1] + b"x"), *rest]
    yield [manifest, (first[0], b"x" * len(first[1])), *rest]
    yield []


def zipped(members: Members, change: Change = lambda info: None) -> bytes:
    """A zip by Python's own writer, with each header changed at will."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            change(info)
            archive.writestr(info, content)
    return stream.getvalue()


def set_mode(mode: int) -> Change:
    return lambda info: setattr(info, "external_attr", mode << 16)


def _headers(data: bytes, members: Members) -> Iterator[tuple[str, Write]]:
    """Headers that say something else than the content, or than one another."""
    for name, flag in FLAGS.items():
        for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            hostile = bytearray(data)
            struct.pack_into("<H", hostile, data.rindex(signature) + offset, flag)
            yield f"flag {name}", as_file(bytes(hostile))
    name = members[1][0].encode()
    yield "another name in the directory", as_file(name.swapcase().join(data.rsplit(name, 1)))
    yield "another name at the content", as_file(data.replace(name, name.swapcase(), 1))
    crc = struct.pack("<I", zlib.crc32(members[1][1]))
    yield "a wrong checksum in all headers", as_file(data.replace(crc, bytes(4)))
    huge = bytearray(data)
    struct.pack_into("<II", huge, 18, 0xFFFF_FFFF, 0xFFFF_FFFF)
    yield "a release of 4 GB", as_file(bytes(huge))
    yield "a comment", as_file(data[:-2] + struct.pack("<H", 4) + b"note")
    yield "a script before it", as_file(b"#!/bin/sh\n" + data)
    yield "a byte behind it", as_file(data + b"x")
    yield "twice", as_file(data * 2)
    yield "a hole behind it", lambda path: (path.write_bytes(data), _stretch(path, 3 << 30))
    yield "a hole", lambda path: _stretch(path, 3 << 30)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_FILE, bytes(50_000_000))
    yield "a bomb", as_file(bomb.getvalue())


def _compressed(data: bytes) -> Iterator[tuple[str, Write]]:
    """Streams of `.xz` that are no more than one sound bundle, or cost more than one."""
    packed = compress(data)
    for count in (6, 12, len(packed) // 2, len(packed) - 12, len(packed) - 1):
        yield f"the first {count} bytes of a stream", as_file(packed[:count])
    yield "a byte behind a stream", as_file(packed + b"x")
    yield "padding behind a stream", as_file(packed + bytes(4))
    yield "a stream twice", as_file(packed * 2)
    yield "two streams, half each", as_file(compress(data[: len(data) // 2]) + compress(data[len(data) // 2 :]))
    yield "a bundle behind a stream", as_file(packed + data)
    yield "a stream in a stream", as_file(compress(packed))
    yield "a stream of a bundle and more", as_file(compress(data + b"x"))
    yield "a stream of two bundles", as_file(compress(data * 2))
    yield "a stream of nothing", as_file(compress(b""))
    yield "an empty stream before it", as_file(compress(b"") + packed)
    yield "a stream of 256 MB of zeros", _pour(b"", 1 << 28)
    yield "a stream of a bundle and 256 MB of zeros", _pour(data, 1 << 28)
    yield "a stream that asks for a window of 1 GB", as_file(with_window(data, 1 << 30))
    yield "an .lzma file", as_file(lzma.compress(data, lzma.FORMAT_ALONE))
    yield "a flipped checksum", as_file(packed[:-30] + bytes([packed[-30] ^ 1]) + packed[-29:])


def _pour(begin: bytes, zeros: int) -> Write:
    """A stream of these bytes and so many zeros, made without holding them."""

    def write(path: Path) -> None:
        with lzma.open(path, "wb", preset=0) as stream:
            stream.write(begin)
            for _ in range(zeros >> 20):
                stream.write(bytes(1 << 20))

    return write


def with_window(data: bytes, window: int) -> bytes:
    """A stream whose header says that it looks back so far, by its filter's one byte of properties."""
    packed = bytearray(lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    size = (packed[12] + 1) * 4
    assert packed[14:16] == b"\x21\x01"  # LZMA2, one byte of properties
    packed[16] = 2 * (window.bit_length() - 12)
    packed[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(packed[12 : 12 + size - 4]))
    return bytes(packed)


def _tars(members: Members) -> Iterator[tuple[str, Write]]:
    """Tars, which no bundle is: whoever unpacked what looks like an archive would fall for them."""
    kinds = {
        "links": (tarfile.SYMTYPE, "/etc/passwd"), "hard links": (tarfile.LNKTYPE, "../../state.json"),
        "devices": (tarfile.CHRTYPE, ""), "pipes": (tarfile.FIFOTYPE, ""), "sparse": (tarfile.GNUTYPE_SPARSE, ""),
        "plain": (tarfile.REGTYPE, ""),
    }  # fmt: skip
    for kind, (code, target) in kinds.items():
        for place in ("", "../", "/tmp/"):
            yield f"tar of {kind} in `{place}`", as_file(_tar(members, place, code, target))
    yield "tar.gz", as_file(_tar(members, "../", tarfile.REGTYPE, "", "w:gz"))


def _tar(members: Members, place: str, kind: bytes, target: str, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(place + name)
            info.type, info.linkname, info.size = kind, target, len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _stretch(path: Path, size: int) -> None:
    with path.open("ab") as stream:
        stream.truncate(size)
