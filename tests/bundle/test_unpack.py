"""Hostile bundles: cut, flipped, and made by zip tools with members that should not be there. Nothing comes out."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.hostile_bundles import MODES, hostile_members, set_mode, zipped
from benchmarks.hostile_manifests import Members
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import pack_members
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import verify_bundle
from edgeopt.errors import EdgeoptError, TrustError, UsageError


@pytest.fixture
def members(bundle: Bundle) -> Members:
    """What stands in the file, in order."""
    names = ["manifest.json", *(listed.path for listed in bundle.manifest.files)]
    return [(name, (bundle.folder / name).read_bytes()) for name in names]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], None]:
    """Asserts that neither unpacking nor verifying accepts these bytes, and that nothing is left of the attempt."""

    def assert_refused(data: bytes) -> None:
        place = tmp_path / "inside" / "deep"
        place.mkdir(parents=True, exist_ok=True)
        hostile = tmp_path / "hostile.edgeopt"
        hostile.write_bytes(data)
        before = sorted(tmp_path.rglob("*"))
        for attempt in (lambda: unpack_bundle(hostile, place / "unpacked"), lambda: verify_bundle(hostile)):
            with pytest.raises(TrustError) as caught:
                attempt()
            assert "\n" not in caught.value.message
        assert sorted(tmp_path.rglob("*")) == before

    return assert_refused


def test_every_prefix_is_refused(file: Path, refused: Callable[[bytes], None]) -> None:
    data = file.read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        refused(data[:length])


def test_every_flipped_byte_is_refused(file: Path, refused: Callable[[bytes], None]) -> None:
    data, numbers = file.read_bytes(), random.Random(0)
    for _ in range(300):
        place = numbers.randrange(len(data))
        flipped = bytes([data[place] ^ numbers.randrange(1, 256)])
        refused(data[:place] + flipped + data[place + 1 :])


def test_members_that_the_manifest_does_not_describe_are_refused(
    members: Members, refused: Callable[[bytes], None]
) -> None:
    for hostile in hostile_members(members):
        refused(pack_members(hostile))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_in_a_zip_of_another_tool_are_refused(members: Members, refused: Callable[[bytes], None]) -> None:
    for hostile in hostile_members(members):
        refused(zipped(hostile))


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_links_devices_pipes_and_setuid_are_refused(
    mode: int, members: Members, refused: Callable[[bytes], None]
) -> None:
    refused(zipped(members, set_mode(mode)))


def test_a_link_in_place_of_a_listed_file_is_refused(members: Members, refused: Callable[[bytes], None]) -> None:
    manifest, first, *rest = members
    refused(zipped([manifest, (first[0], b"/etc/passwd"), *rest], set_mode(0o120777)))


def test_compressed_members_are_refused(members: Members, refused: Callable[[bytes], None]) -> None:
    refused(zipped(members, lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED)))


def test_a_bomb_is_refused_unexpanded(members: Members, refused: Callable[[bytes], None]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(50_000_000))
    refused(stream.getvalue())


def test_a_manifest_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.edgeopt").write_bytes(pack_members([("manifest.json", b" " * 1_000_001)]))
    with pytest.raises(TrustError, match="a manifest of 1000001 bytes, at most 1000000 are allowed"):
        verify_bundle(tmp_path / "large.edgeopt")


def test_a_wrong_checksum_is_refused_even_where_all_headers_agree(
    members: Members, file: Path, refused: Callable[[bytes], None]
) -> None:
    right = struct.pack("<I", zlib.crc32(members[1][1]))
    assert file.read_bytes().count(right) == 2
    refused(file.read_bytes().replace(right, bytes(4)))


def test_a_manifest_of_four_gigabytes_is_refused_unread(file: Path, refused: Callable[[bytes], None]) -> None:
    data = bytearray(file.read_bytes())
    struct.pack_into("<II", data, 18, 0xFFFF_FFFF, 0xFFFF_FFFF)
    refused(bytes(data))


@pytest.mark.parametrize("flags", [0x1, 0x8, 0x40, 0x800], ids=["encrypted", "trailing sizes", "strong", "utf-8"])
def test_a_flag_in_any_header_is_refused(flags: int, file: Path, refused: Callable[[bytes], None]) -> None:
    data = file.read_bytes()
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        hostile = bytearray(data)
        struct.pack_into("<H", hostile, data.rindex(signature) + offset, flags)
        refused(bytes(hostile))


@pytest.mark.parametrize("wrap", [lambda data: data + b"x", lambda data: b"#!/bin/sh\n" + data, lambda data: data * 2])
def test_anything_before_or_after_the_zip_is_refused(
    wrap: Callable[[bytes], bytes], file: Path, refused: Callable[[bytes], None]
) -> None:
    refused(wrap(file.read_bytes()))


def test_a_comment_is_refused(members: Members, refused: Callable[[bytes], None]) -> None:
    data = pack_members(members)
    refused(data[:-2] + struct.pack("<H", 4) + b"note")


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"\x1f\x8b" + bytes(100), b"not a zip at all, just text " * 9, bytes(4096)]
)
def test_what_is_no_zip_is_refused(data: bytes, refused: Callable[[bytes], None]) -> None:
    refused(data)


def test_a_link_planted_in_the_destination_is_replaced_not_followed(file: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "unpacked").symlink_to(outside)
    unpack_bundle(file, tmp_path / "unpacked")
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "unpacked").is_symlink()


def test_unpacking_replaces_what_stood_there(file: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "old").touch()
    unpacked = unpack_bundle(file, tmp_path / "unpacked")
    assert verify_bundle(unpacked.folder).manifest == unpacked.manifest


def test_a_missing_file_is_a_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle file"):
        unpack_bundle(tmp_path / "none.edgeopt", tmp_path / "unpacked")


def test_a_full_disk_at_any_write_leaves_nothing(
    file: Path, tmp_path: Path, fail_at_each_write: Callable[..., Iterator[EdgeoptError]]
) -> None:
    before, failures = sorted(tmp_path.rglob("*")), 0
    for error in fail_at_each_write(lambda: unpack_bundle(file, tmp_path / "unpacked")):
        assert "no space left" in error.message
        assert sorted(tmp_path.rglob("*")) == before
        failures += 1
    assert failures > 8
    assert (tmp_path / "unpacked").is_dir()
