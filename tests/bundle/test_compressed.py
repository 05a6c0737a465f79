"""A compressed bundle is the bundle: whatever reads one reads the other, and what comes out is what was signed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.shipments import Publisher
from edgeopt.bundle.archive import is_compressed
from edgeopt.bundle.pack import compress_file, pack_file
from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.signing import load_signer
from edgeopt.bundle.trust import load_root
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import load_bundle, verify_bundle
from edgeopt.device.install import install
from edgeopt.device.source import find_source
from edgeopt.errors import MissingError, TrustError, UsageError
from edgeopt.transports import open_transport, shipped_name


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.make(tmp_path / "publisher")


@pytest.fixture
def signed(publisher: Publisher) -> Path:
    return publisher.publish(7)


@pytest.fixture
def compressed(signed: Path) -> Path:
    path = signed.with_name(f"{signed.name}.xz")
    compress_file(signed, path)
    return path


def test_it_is_smaller_and_the_same_each_time(signed: Path, compressed: Path, tmp_path: Path) -> None:
    compress_file(signed, tmp_path / "again.xz")
    assert (tmp_path / "again.xz").read_bytes() == compressed.read_bytes()
    assert compressed.stat().st_size < signed.stat().st_size
    assert is_compressed(compressed)
    assert not is_compressed(signed)


def test_what_is_unpacked_is_packed_to_the_very_bytes_that_were_compressed(
    signed: Path, compressed: Path, tmp_path: Path
) -> None:
    unpack_bundle(compressed, tmp_path / "unpacked")
    pack_file(tmp_path / "unpacked", tmp_path / "packed.edgeopt")
    assert (tmp_path / "packed.edgeopt").read_bytes() == signed.read_bytes()
    pack_file(tmp_path / "unpacked", tmp_path / "packed.edgeopt.xz")
    assert (tmp_path / "packed.edgeopt.xz").read_bytes() == compressed.read_bytes()


def test_a_signature_holds_and_is_asked_for(publisher: Publisher, compressed: Path, tmp_path: Path) -> None:
    assert "signed, counter 7" in verify_bundle(compressed, load_root(publisher.root)).signature
    stranger = Publisher.make(tmp_path / "stranger")
    with pytest.raises(TrustError, match="signed"):
        verify_bundle(compressed, load_root(stranger.root))


def test_a_device_installs_it_as_the_same_release(
    publisher: Publisher, signed: Path, compressed: Path, tmp_path: Path
) -> None:
    home = publisher.make_device(tmp_path / "device")
    installed = install(home, compressed)
    assert installed.is_new
    assert not install(home, signed).is_new
    bundle = load_bundle(home.path_of(installed.digest))
    assert bundle.manifest == verify_bundle(signed).manifest


def test_a_predictor_opens_it(publisher: Publisher, compressed: Path) -> None:
    source = find_source(compressed, publisher.root)
    assert (source.bundle().folder / "model" / "model.onnx").is_file()
    source.close()


def test_it_is_signed_where_it_lies_and_stays_compressed(publisher: Publisher, tmp_path: Path) -> None:
    path = tmp_path / "digits.edgeopt.xz"
    compress_file(publisher.pack(), path)
    sign_bundle(path, path, Terms(counter=3), [load_signer(publisher.keys[0])])
    assert is_compressed(path)
    assert "counter 3" in verify_bundle(path, load_root(publisher.root)).signature


def test_its_name_on_the_way_says_what_it_is(signed: Path, compressed: Path, tmp_path: Path) -> None:
    assert shipped_name(compressed) == f"{shipped_name(signed)}.xz"
    with open_transport(f"folder://{tmp_path}") as folder:
        place = Path(folder.send(compressed))
    assert place.read_bytes() == compressed.read_bytes()
    assert verify_bundle(place).manifest == verify_bundle(signed).manifest


def test_neither_a_folder_nor_what_is_compressed_is_compressed(signed: Path, compressed: Path, tmp_path: Path) -> None:
    unpack_bundle(signed, tmp_path / "unpacked")
    with pytest.raises(UsageError, match="is a bundle's folder"):
        compress_file(tmp_path / "unpacked", tmp_path / "x.xz")
    with pytest.raises(UsageError, match="compressed already"):
        compress_file(compressed, tmp_path / "x.xz")
    assert not (tmp_path / "x.xz").exists()


def test_a_python_without_liblzma_says_so_and_reads_the_plain_file(
    signed: Path, compressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(MissingError, match="built without liblzma"):
        verify_bundle(compressed)
    assert verify_bundle(signed).manifest.name == "digits"


def test_a_damaged_bundle_is_not_compressed(signed: Path, tmp_path: Path) -> None:
    data = bytearray(signed.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.edgeopt").write_bytes(data)
    with pytest.raises(TrustError):
        compress_file(tmp_path / "damaged.edgeopt", tmp_path / "x.xz")
    assert not (tmp_path / "x.xz").exists()
