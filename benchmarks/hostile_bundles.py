"""Bundles that want out of their folder, or to pass for what they are not: does any byte of them get anywhere?

    tried = try_hostile(publisher, folder, make_hostile(publisher, folder))

Some are made without a key, from a bundle that was signed; the others are signed by the right key, as if whoever signs
had been fooled: the signature then holds, and what is signed is no manifest of edgeopt's.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.shipments import Publisher
from edgeopt.bundle.archive import open_archive, pack_members
from edgeopt.bundle.manifest import MANIFEST_FILE, RELEASE_FILE
from edgeopt.bundle.release import PAYLOAD_TYPE, Release
from edgeopt.bundle.signing import load_signer, sign
from edgeopt.device.install import install
from edgeopt.errors import TrustError
from edgeopt.model import canonical_json

Members = list[tuple[str, bytes]]
Change = Callable[[zipfile.ZipInfo], object]
#: writes the file
Write = Callable[[Path], object]

#: of members: links, setuid, executable, block and character devices, pipes, folders, sockets
MODES = (0o120777, 0o104755, 0o100777, 0o060644, 0o020644, 0o010644, 0o040755, 0o140755)
FLAGS = {"encrypted": 0x1, "trailing sizes": 0x8, "strongly encrypted": 0x40, "utf-8": 0x800}
OUTSIDE = (
    "../escaped",
    "model/../../escaped",
    "./x",
    "a\\..\\b",
    "",
    ".",
    "..",
    "~/x",
    "model//x",
    "x/",
    "x\n",
    "x\0y",
)


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
        yield f"the first {length} bytes", _bytes(data[:length])


def make_flips(data: bytes, count: int) -> Iterator[tuple[str, Write]]:
    numbers = random.Random(0)
    for _ in range(count):
        place, mask = numbers.randrange(len(data)), numbers.randrange(1, 256)
        flipped = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
        yield f"byte {place} ^ {mask}", _bytes(flipped)


def make_hostile(publisher: Publisher, counter: int = 2) -> Iterator[tuple[str, Write]]:
    """One of each kind, most of them several: names of what it is, and what writes it."""
    bundle = publisher.publish(counter)
    release, members = _members(bundle)
    for number, hostile in enumerate(hostile_members(members)):
        yield f"members {number}", _bytes(pack_members([release, *hostile]))
        yield f"members {number}, by zip", _bytes(zipped([release, *hostile]))
    whole = [release, *members]
    for mode in MODES:
        yield f"mode {mode:o}", _bytes(zipped(whole, set_mode(mode)))
    yield "compressed", _bytes(zipped(whole, lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED)))
    yield from _headers(bundle.read_bytes(), members)
    yield from _tars(members)
    yield from _signed(publisher, members, counter)


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
            yield f"flag {name}", _bytes(bytes(hostile))
    name = members[1][0].encode()
    yield "another name in the directory", _bytes(name.swapcase().join(data.rsplit(name, 1)))
    yield "another name at the content", _bytes(data.replace(name, name.swapcase(), 1))
    crc = struct.pack("<I", zlib.crc32(members[1][1]))
    yield "a wrong checksum in all headers", _bytes(data.replace(crc, bytes(4)))
    huge = bytearray(data)
    struct.pack_into("<II", huge, 18, 0xFFFF_FFFF, 0xFFFF_FFFF)
    yield "a release of 4 GB", _bytes(bytes(huge))
    yield "a comment", _bytes(data[:-2] + struct.pack("<H", 4) + b"note")
    yield "a script before it", _bytes(b"#!/bin/sh\n" + data)
    yield "a byte behind it", _bytes(data + b"x")
    yield "twice", _bytes(data * 2)
    yield "a hole behind it", lambda path: (path.write_bytes(data), _stretch(path, 3 << 30))
    yield "a hole", lambda path: _stretch(path, 3 << 30)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_FILE, bytes(50_000_000))
    yield "a bomb", _bytes(bomb.getvalue())


def _tars(members: Members) -> Iterator[tuple[str, Write]]:
    """Tars, which no bundle is: whoever unpacked what looks like an archive would fall for them."""
    kinds = {
        "links": (tarfile.SYMTYPE, "/etc/passwd"), "hard links": (tarfile.LNKTYPE, "../../state.json"),
        "devices": (tarfile.CHRTYPE, ""), "pipes": (tarfile.FIFOTYPE, ""), "sparse": (tarfile.GNUTYPE_SPARSE, ""),
        "plain": (tarfile.REGTYPE, ""),
    }  # fmt: skip
    for kind, (code, target) in kinds.items():
        for place in ("", "../", "/tmp/"):
            yield f"tar of {kind} in `{place}`", _bytes(_tar(members, place, code, target))
    yield "tar.gz", _bytes(_tar(members, "../", tarfile.REGTYPE, "", "w:gz"))


def _tar(members: Members, place: str, kind: bytes, target: str, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(place + name)
            info.type, info.linkname, info.size = kind, target, len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _signed(publisher: Publisher, members: Members, counter: int) -> Iterator[tuple[str, Write]]:
    """Manifests that no packer makes, signed by the right key, with just the members that they list."""
    manifest: dict[str, Any] = json.loads(members[0][1])
    contents = dict(members[1:])

    def publish(what: str, listed: list[dict[str, Any]], **fields: Any) -> tuple[str, Write]:
        data = canonical_json(manifest | {"files": listed} | fields)
        described = {"name": manifest["name"], "target": manifest["target"]}
        release = Release(manifest_sha256=hashlib.sha256(data).hexdigest(), counter=counter, **described)
        payload = canonical_json(release.model_dump(mode="json"))
        envelope = sign(payload, PAYLOAD_TYPE, [load_signer(publisher.keys[0])])
        given = [(str(one["path"]), contents.get(one["path"], b"x")) for one in listed]
        return f"signed: {what}", _bytes(pack_members([(RELEASE_FILE, envelope), (MANIFEST_FILE, data), *given]))

    files: list[dict[str, Any]] = manifest["files"]
    extra = {"path": "", "sha256": hashlib.sha256(b"x").hexdigest(), "size_bytes": 1}

    def among(name: str) -> list[dict[str, Any]]:
        return sorted([*files, extra | {"path": name}], key=lambda one: one["path"])

    absolute = str(publisher.folder / "escaped")
    taken = ("manifest.json", "release.json", "RELEASE.JSON", "GOLDEN.NPZ", "model", "golden.npz/inside")
    for name in (*OUTSIDE, absolute, *taken, "x" * 300, "/".join("abcdefgh"), "‮x", ".hidden", "-x"):
        yield publish(f"a file `{name[:40]!r}`", among(name))
    yield publish("a file twice", sorted([*files, files[0]], key=lambda one: one["path"]))
    yield publish("files in another order", files[::-1])
    yield publish("one file less", files[1:])
    for field_name, value in (
        ("size_bytes", -1), ("size_bytes", 1 << 40), ("size_bytes", 0), ("size_bytes", True), ("sha256", "0" * 64),
        ("sha256", "x"), ("sha256", ""), ("path", None), ("mode", 0o4755),
    ):  # fmt: skip
        yield publish(f"`{field_name}: {value}`", [files[0] | {field_name: value}, *files[1:]])
    yield publish("2,000 files", [extra | {"path": f"f{number:04}"} for number in range(2_000)])
    yield publish("another format", files, edgeopt_bundle=2)
    yield publish("a field that is not known", files, run="rm -rf /")


def _members(bundle: Path) -> tuple[tuple[str, bytes], Members]:
    """The release, and the manifest with all that it lists."""
    with open_archive(bundle) as archive:
        assert archive.release is not None
        manifest = archive.manifest
        release = (RELEASE_FILE, archive.release)
    with zipfile.ZipFile(bundle) as opened:
        listed = [(file.path, opened.read(file.path)) for file in manifest.files]
    return release, [(MANIFEST_FILE, manifest.to_bytes()), *listed]


def _bytes(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def _stretch(path: Path, size: int) -> None:
    with path.open("ab") as stream:
        stream.truncate(size)
